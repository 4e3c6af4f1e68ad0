// A PNG of a page with 256 of its colours: a third of the size, and nobody sees the difference.
import zlib, { deflateSync, inflateSync } from "node:zlib";

const SIGNATURE = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc(body), body.length + 4);
  return out;
}

/** Node has it since 22. */
function crc(data) {
  if (zlib.crc32) return zlib.crc32(data);
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let k = 0; k < 8; k++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

/** The pixels, line by line, of a PNG of eight bits a channel. */
function pixels(png) {
  let header, data = [];
  for (let at = 8; at < png.length;) {
    const length = png.readUInt32BE(at);
    const [type, body] = [png.toString("latin1", at + 4, at + 8), png.subarray(at + 8, at + 8 + length)];
    if (type === "IHDR") header = body;
    if (type === "IDAT") data.push(body);
    at += length + 12;
  }
  const [width, height, depth, kind, interlaced] = [header.readUInt32BE(0), header.readUInt32BE(4), header[8], header[9], header[12]];
  if (depth !== 8 || ![2, 6].includes(kind) || interlaced) throw new Error("not a PNG as browsers make them");
  const bytes = kind === 2 ? 3 : 4;
  const [raw, stride] = [inflateSync(Buffer.concat(data)), width * bytes];
  const out = Buffer.alloc(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const left = x >= bytes ? out[y * stride + x - bytes] : 0;
      const up = y ? out[(y - 1) * stride + x] : 0;
      const corner = y && x >= bytes ? out[(y - 1) * stride + x - bytes] : 0;
      const guess = left + up - corner;
      const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
      const before = [0, left, up, (left + up) >> 1, a <= b && a <= c ? left : b <= c ? up : corner][filter];
      out[y * stride + x] = raw[y * (stride + 1) + 1 + x] + before;
    }
  }
  return { width, height, bytes, out };
}

const COMMONEST = 64;

export function small(png) {
  const { width, height, bytes, out } = pixels(png);
  const colour = (i) => (out[i] << 16) | (out[i + 1] << 8) | out[i + 2];
  const count = new Map();
  for (let i = 0; i < out.length; i += bytes) count.set(colour(i), (count.get(colour(i)) ?? 0) + 1);
  const far = (a, b) => ((a >> 16) - (b >> 16)) ** 2 + (((a >> 8) & 255) - ((b >> 8) & 255)) ** 2 + ((a & 255) - (b & 255)) ** 2;
  // The commonest, and then whatever is least like those: a word in green stays green.
  const all = [...count].sort((a, b) => b[1] - a[1]).map(([c]) => ({ c, off: Infinity, near: 0 }));
  const palette = [];
  while (palette.length < Math.min(256, all.length)) {
    const next = palette.length < COMMONEST ? all[palette.length] : all.reduce((best, one) => (one.off > best.off ? one : best));
    for (const one of all) {
      const off = far(one.c, next.c);
      if (off < one.off) Object.assign(one, { off, near: palette.length });
    }
    palette.push(next.c);
  }
  const place = new Map(all.map(({ c, near }) => [c, near]));
  const lines = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) lines[y * (width + 1) + 1 + x] = place.get(colour((y * width + x) * bytes));
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 3, 0, 0, 0], 8);
  return Buffer.concat([SIGNATURE, chunk("IHDR", header), chunk("PLTE", Buffer.from(palette.flatMap((c) => [c >> 16, (c >> 8) & 255, c & 255]))),
    chunk("IDAT", deflateSync(lines, { level: 9 })), chunk("IEND", Buffer.alloc(0))]);
}
