/**
 * The least and the greatest number that a value can be, read as unsigned and as signed, in 32 or 64 bits, and what arithmetic makes of them. An
 * operation whose result may wrap gives all numbers of the width; what else is known is put together in number.ts.
 */
export interface Bounds {
  readonly ulo: bigint;
  readonly uhi: bigint;
  readonly slo: bigint;
  readonly shi: bigint;
}

export type Width = 32 | 64;

/** Bounds that are still open on one side of the sign: filled up by `bounds`. */
type Part = Partial<Bounds>;

export const FULL: Readonly<Record<Width, Bounds>> = {
  32: { ulo: 0n, uhi: (1n << 32n) - 1n, slo: -(1n << 31n), shi: (1n << 31n) - 1n },
  64: { ulo: 0n, uhi: (1n << 64n) - 1n, slo: -(1n << 63n), shi: (1n << 63n) - 1n },
};

/** What an operation computes from the bounds of its operands. */
export type BoundsOperation = (width: Width, a: Bounds, b: Bounds) => Bounds;

export function exactly(width: Width, value: bigint): Bounds {
  const signed = BigInt.asIntN(width, value);
  const unsigned = BigInt.asUintN(width, value);
  return { ulo: unsigned, uhi: unsigned, slo: signed, shi: signed };
}

export function joinBounds(a: Bounds, b: Bounds): Bounds {
  return {
    ulo: min(a.ulo, b.ulo),
    uhi: max(a.uhi, b.uhi),
    slo: min(a.slo, b.slo),
    shi: max(a.shi, b.shi),
  };
}

/** May come out empty, which is for `reduce` to see. */
export function meetBounds(a: Bounds, b: Bounds): Bounds {
  return {
    ulo: max(a.ulo, b.ulo),
    uhi: min(a.uhi, b.uhi),
    slo: max(a.slo, b.slo),
    shi: min(a.shi, b.shi),
  };
}

export function boundsInclude(a: Bounds, b: Bounds): boolean {
  return a.ulo <= b.ulo && a.uhi >= b.uhi && a.slo <= b.slo && a.shi >= b.shi;
}

/** When both ends wrap they wrap alike, and the order stays. */
export const addBounds: BoundsOperation = (width, a, b) => {
  return wrapped(width, a.ulo + b.ulo, a.uhi + b.uhi, a.slo + b.slo, a.shi + b.shi);
};

export const subBounds: BoundsOperation = (width, a, b) => {
  return wrapped(width, a.ulo - b.uhi, a.uhi - b.ulo, a.slo - b.shi, a.shi - b.slo);
};

export const mulBounds: BoundsOperation = (width, a, b) => {
  const corners = [a.slo * b.slo, a.slo * b.shi, a.shi * b.slo, a.shi * b.shi];
  return wrapped(width, a.ulo * b.ulo, a.uhi * b.uhi, corners.reduce(min), corners.reduce(max));
};

/** By zero it gives 0. */
export const divBounds: BoundsOperation = (width, a, b) => {
  if (b.uhi === 0n) return exactly(width, 0n);
  return bounds(width, {
    ulo: b.ulo === 0n ? 0n : a.ulo / b.uhi,
    uhi: b.ulo === 0n ? a.uhi : a.uhi / b.ulo,
  });
};

/** By zero it gives the dividend. */
export const modBounds: BoundsOperation = (width, a, b) => {
  if (a.uhi < b.ulo) return bounds(width, { ulo: a.ulo, uhi: a.uhi });
  return bounds(width, { ulo: 0n, uhi: b.ulo === 0n ? a.uhi : min(a.uhi, b.uhi - 1n) });
};

/** The quotient is no larger than the dividend, except that the least number by -1 is itself. */
export const signedDivBounds: BoundsOperation = (width, a, b) => {
  if (b.slo > 0n && b.slo === b.shi) return bounds(width, { slo: a.slo / b.slo, shi: a.shi / b.slo });
  const largest = max(abs(a.slo), abs(a.shi));
  return largest > FULL[width].shi ? FULL[width] : bounds(width, { slo: -largest, shi: largest });
};

/** The remainder has the sign of the dividend, is no larger, and smaller than the divisor unless that is zero. */
export const signedModBounds: BoundsOperation = (width, a, b) => {
  const canBeZero = b.slo <= 0n && b.shi >= 0n;
  const limit = canBeZero ? FULL[width].uhi : max(abs(b.slo), abs(b.shi)) - 1n;
  return bounds(width, {
    slo: a.slo >= 0n ? 0n : max(a.slo, -limit),
    shi: a.shi <= 0n ? 0n : min(a.shi, limit),
  });
};

export const andBounds: BoundsOperation = (width, a, b) => bounds(width, { uhi: min(a.uhi, b.uhi) });

export const orBounds: BoundsOperation = (width, a, b) => bounds(width, { ulo: max(a.ulo, b.ulo) });

/** Left to the known bits. */
export const xorBounds: BoundsOperation = width => FULL[width];

export const shiftLeftBounds: BoundsOperation = (width, a, b) => {
  const { least, most } = counts(width, b);
  return wrapped(
    width,
    a.ulo << least,
    a.uhi << most,
    a.slo << (a.slo < 0n ? most : least),
    a.shi << (a.shi < 0n ? least : most),
  );
};

export const shiftRightBounds: BoundsOperation = (width, a, b) => {
  const { least, most } = counts(width, b);
  return bounds(width, { ulo: a.ulo >> most, uhi: a.uhi >> least });
};

export const shiftRightSignedBounds: BoundsOperation = (width, a, b) => {
  const { least, most } = counts(width, b);
  return bounds(width, {
    slo: a.slo >> (a.slo < 0n ? least : most),
    shi: a.shi >> (a.shi < 0n ? most : least),
  });
};

/** How far a shift by such a number goes: counts use their low 5 or 6 bits. */
function counts(width: Width, b: Bounds): { least: bigint; most: bigint } {
  const last = BigInt(width - 1);
  if (b.ulo === b.uhi) return { least: b.ulo & last, most: b.ulo & last };
  return b.uhi <= last ? { least: b.ulo, most: b.uhi } : { least: 0n, most: last };
}

function bounds(width: Width, part: Part): Bounds {
  return { ...FULL[width], ...part };
}

/** Exact results brought back into the width; a range that is cut in two by that becomes the full one. */
function wrapped(width: Width, ulo: bigint, uhi: bigint, slo: bigint, shi: bigint): Bounds {
  const full = FULL[width];
  const bits = BigInt(width);
  const unsigned = ulo >> bits === uhi >> bits;
  const half = full.shi + 1n;
  const signed = (slo + half) >> bits === (shi + half) >> bits;
  return {
    ulo: unsigned ? BigInt.asUintN(width, ulo) : full.ulo,
    uhi: unsigned ? BigInt.asUintN(width, uhi) : full.uhi,
    slo: signed ? BigInt.asIntN(width, slo) : full.slo,
    shi: signed ? BigInt.asIntN(width, shi) : full.shi,
  };
}

export function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

export function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function abs(a: bigint): bigint {
  return a < 0n ? -a : a;
}
