/** Looking things up in sorted lists, by halves. */

/** Of a list at whose beginning it holds, and nowhere else: for how many. */
export function countUpTo<T>(list: readonly T[], holds: (one: T) => boolean): number {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(list[middle]!)) low = middle + 1;
    else high = middle;
  }
  return low;
}
