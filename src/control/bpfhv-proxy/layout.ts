/**
 * Payload layouts as data: fields in wire order, little-endian, without gaps. One encoder and one decoder serve them all.
 */

/** `pad` takes four bytes that are written as zero and not looked at; an array always takes its whole room. */
export type Field = 'u16' | 'u32' | 'u64' | 'pad' | { readonly times: number; readonly of: Layout };
export interface Layout {
  readonly [name: string]: Field;
}

type FieldValue<F extends Field> = F extends 'u16' | 'u32'
  ? number
  : F extends 'u64'
    ? bigint
    : F extends { readonly of: infer L extends Layout }
      ? readonly LayoutValue<L>[]
      : never;

/** The value of a layout: numbers for u16 and u32, bigints for u64, arrays of such objects; pads do not appear. */
export type LayoutValue<L extends Layout> = {
  readonly [name in keyof L as L[name] extends 'pad' ? never : name]: FieldValue<L[name]>;
};

type Loose = { readonly [name: string]: number | bigint | readonly Loose[] };

/** Bytes that a layout takes. */
export function layoutSize(layout: Layout): number {
  let size = 0;
  for (const field of Object.values(layout)) size += fieldSize(field);
  return size;
}

/** Encodes; an array with fewer entries than its room is filled up with zeros, with more it throws RangeError. */
export function encodeLayout<L extends Layout>(layout: L, value: LayoutValue<L>): Uint8Array {
  const bytes = new Uint8Array(layoutSize(layout));
  write(new DataView(bytes.buffer), 0, layout, value as Loose);
  return bytes;
}

/** Decodes; `bytes` must be exactly as long as the layout, or it throws RangeError. */
export function decodeLayout<L extends Layout>(layout: L, bytes: Uint8Array): LayoutValue<L> {
  const size = layoutSize(layout);
  if (bytes.length !== size) throw new RangeError(`${bytes.length} bytes where the layout takes ${size}`);
  return read(new DataView(bytes.buffer, bytes.byteOffset, size), 0, layout) as LayoutValue<L>;
}

function fieldSize(field: Field): number {
  if (typeof field === 'object') return field.times * layoutSize(field.of);
  return field === 'u64' ? 8 : field === 'u16' ? 2 : 4;
}

function write(view: DataView, at: number, layout: Layout, value: Loose): void {
  for (const [name, field] of Object.entries(layout)) {
    if (field === 'u32') view.setUint32(at, checked(name, value[name] as number, 0xffff_ffff), true);
    else if (field === 'u16') view.setUint16(at, checked(name, value[name] as number, 0xffff), true);
    else if (field === 'u64')
      view.setBigUint64(at, checked(name, value[name] as bigint, 2n ** 64n - 1n), true);
    else if (field !== 'pad') {
      const entries = value[name] as readonly Loose[];
      if (entries.length > field.times) throw new RangeError(`${name}: at most ${field.times} entries`);
      entries.forEach((entry, i) => {
        write(view, at + i * layoutSize(field.of), field.of, entry);
      });
    }
    at += fieldSize(field);
  }
}

function read(view: DataView, at: number, layout: Layout): Loose {
  const value: Record<string, Loose[string]> = {};
  for (const [name, field] of Object.entries(layout)) {
    if (field === 'u32') value[name] = view.getUint32(at, true);
    else if (field === 'u16') value[name] = view.getUint16(at, true);
    else if (field === 'u64') value[name] = view.getBigUint64(at, true);
    else if (field !== 'pad') {
      const step = layoutSize(field.of);
      const start = at;
      value[name] = Array.from({ length: field.times }, (_, i) => read(view, start + i * step, field.of));
    }
    at += fieldSize(field);
  }
  return value;
}

function checked<N extends number | bigint>(name: string, value: N, most: N): N {
  if (value < 0 || value > most) throw new RangeError(`${name}: ${value} does not fit`);
  return value;
}
