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

/** All are made here, so that the engine sees one kind of object. */
export function boundsOf(ulo: bigint, uhi: bigint, slo: bigint, shi: bigint): Bounds {
  return { ulo, uhi, slo, shi };
}

/** Of numbers without a sign bit: from lo to hi. */
export function fromTo(lo: bigint, hi: bigint): Bounds {
  return boundsOf(lo, hi, lo, hi);
}

export const FULL: Readonly<Record<Width, Bounds>> = {
  32: boundsOf(0n, (1n << 32n) - 1n, -(1n << 31n), (1n << 31n) - 1n),
  64: boundsOf(0n, (1n << 64n) - 1n, -(1n << 63n), (1n << 63n) - 1n),
};

/** What an operation computes from the bounds of its operands. */
export type BoundsOperation = (width: Width, a: Bounds, b: Bounds) => Bounds;

export function exactly(width: Width, value: bigint): Bounds {
  const asSigned = BigInt.asIntN(width, value);
  const asUnsigned = BigInt.asUintN(width, value);
  return boundsOf(asUnsigned, asUnsigned, asSigned, asSigned);
}

export function sameBounds(a: Bounds, b: Bounds): boolean {
  return a === b || (a.ulo === b.ulo && a.uhi === b.uhi && a.slo === b.slo && a.shi === b.shi);
}

export function joinBounds(a: Bounds, b: Bounds): Bounds {
  return boundsOf(min(a.ulo, b.ulo), max(a.uhi, b.uhi), min(a.slo, b.slo), max(a.shi, b.shi));
}

/** May come out empty, which is for `reduce` to see. */
export function meetBounds(a: Bounds, b: Bounds): Bounds {
  return boundsOf(max(a.ulo, b.ulo), min(a.uhi, b.uhi), max(a.slo, b.slo), min(a.shi, b.shi));
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
  return unsigned(width, b.ulo === 0n ? 0n : a.ulo / b.uhi, b.ulo === 0n ? a.uhi : a.uhi / b.ulo);
};

/** By zero it gives the dividend. */
export const modBounds: BoundsOperation = (width, a, b) => {
  if (a.uhi < b.ulo) return unsigned(width, a.ulo, a.uhi);
  return unsigned(width, 0n, b.ulo === 0n ? a.uhi : min(a.uhi, b.uhi - 1n));
};

/** The quotient is no larger than the dividend, except that the least number by -1 is itself. */
export const signedDivBounds: BoundsOperation = (width, a, b) => {
  if (b.slo > 0n && b.slo === b.shi) return signed(width, a.slo / b.slo, a.shi / b.slo);
  const largest = max(abs(a.slo), abs(a.shi));
  return largest > FULL[width].shi ? FULL[width] : signed(width, -largest, largest);
};

/** The remainder has the sign of the dividend, is no larger, and smaller than the divisor unless that is zero. */
export const signedModBounds: BoundsOperation = (width, a, b) => {
  const canBeZero = b.slo <= 0n && b.shi >= 0n;
  const limit = canBeZero ? FULL[width].uhi : max(abs(b.slo), abs(b.shi)) - 1n;
  return signed(width, a.slo >= 0n ? 0n : max(a.slo, -limit), a.shi <= 0n ? 0n : min(a.shi, limit));
};

export const andBounds: BoundsOperation = (width, a, b) => unsigned(width, 0n, min(a.uhi, b.uhi));

export const orBounds: BoundsOperation = (width, a, b) => unsigned(width, max(a.ulo, b.ulo), FULL[width].uhi);

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
  return unsigned(width, a.ulo >> most, a.uhi >> least);
};

export const shiftRightSignedBounds: BoundsOperation = (width, a, b) => {
  const { least, most } = counts(width, b);
  return signed(width, a.slo >> (a.slo < 0n ? least : most), a.shi >> (a.shi < 0n ? most : least));
};

/** How far a shift by such a number goes: counts use their low 5 or 6 bits. */
function counts(width: Width, b: Bounds): { least: bigint; most: bigint } {
  const last = BigInt(width - 1);
  if (b.ulo === b.uhi) return { least: b.ulo & last, most: b.ulo & last };
  return b.uhi <= last ? { least: b.ulo, most: b.uhi } : { least: 0n, most: last };
}

/** Bounds that are open on the other side of the sign. */
function unsigned(width: Width, ulo: bigint, uhi: bigint): Bounds {
  return boundsOf(ulo, uhi, FULL[width].slo, FULL[width].shi);
}

function signed(width: Width, slo: bigint, shi: bigint): Bounds {
  return boundsOf(FULL[width].ulo, FULL[width].uhi, slo, shi);
}

/** Exact results brought back into the width; a range that is cut in two by that becomes the full one. */
function wrapped(width: Width, ulo: bigint, uhi: bigint, slo: bigint, shi: bigint): Bounds {
  const full = FULL[width];
  const bits = BigInt(width);
  const half = full.shi + 1n;
  const keptUnsigned = ulo >> bits === uhi >> bits;
  const keptSigned = (slo + half) >> bits === (shi + half) >> bits;
  return boundsOf(
    keptUnsigned ? BigInt.asUintN(width, ulo) : full.ulo,
    keptUnsigned ? BigInt.asUintN(width, uhi) : full.uhi,
    keptSigned ? BigInt.asIntN(width, slo) : full.slo,
    keptSigned ? BigInt.asIntN(width, shi) : full.shi,
  );
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
