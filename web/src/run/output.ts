// What a run has put out on its output streams, and the rows in which that is read.
import type { Chunk } from "../api/types.ts";
import { asString, pretty } from "../json/text.ts";

/** One stream. `chunks` only grows, and is shared by what was and what is: the first `count` of them are meant. */
export type Output = { name: string; chunks: Chunk[]; count: number; bytes: number };
export type Outputs = ReadonlyMap<string, Output>;

const utf8 = new TextEncoder();
const rawOf = (chunk: Chunk) => chunk.data ?? "null";

/** The outputs with one chunk more. What was told before changes nothing, and what was there stays as it is. */
export function withChunk(outputs: Outputs, chunk: Chunk): Outputs {
  const was = outputs.get(chunk.stream) ?? { name: chunk.stream, chunks: [], count: 0, bytes: 0 };
  if (was.count && chunk.n <= was.chunks[was.count - 1]!.n) return outputs;
  // Somebody else has gone on from here already: the two part.
  const chunks = was.chunks.length === was.count ? was.chunks : was.chunks.slice(0, was.count);
  chunks.push(chunk);
  return new Map(outputs).set(chunk.stream, { name: was.name, chunks, count: was.count + 1, bytes: was.bytes + utf8.encode(rawOf(chunk)).length });
}

/** `text`: chunks that are strings run on, as a reader of the stream joins them; `chunks`: each by itself. */
export type Form = "text" | "chunks";

/** What is shown in one row: a line, or a part of one that is very long. */
export type Row = {
  text: string;
  /** The chunk that it began with, by its place. */
  chunk: number;
  /** Whether that chunk begins here, and whether the line ends here. */
  begins: boolean;
  ends: boolean;
};

/** So much of a line is in one row: a browser lays out many short rows faster than one that is very long. */
export const WIDE = 1000;
/** JSON that is longer stands on several lines. */
const LONG = 100;

const json = (raw: string) => (raw.length > LONG ? pretty(raw) : raw);

/** Where the row ends that begins at `from`: never inside of a character. */
function cut(text: string, from: number): number {
  const to = Math.min(text.length, from + WIDE);
  const last = text.charCodeAt(to - 1);
  return to < text.length && last >= 0xd800 && last < 0xdc00 ? to - 1 : to;
}

/** Lays out in rows; what was laid out stays, and what has come since is added. */
export function layout(form: Form): (output: Output) => Row[] {
  let chunks: Chunk[] | null = null;
  let done = 0;
  let rows: Row[] = [];
  /** Whether the last row goes on. */
  let open = false;

  const put = (text: string, chunk: number, ends: boolean) => {
    let begins = chunk !== (rows.at(-1)?.chunk ?? -1);
    if (open) {
      const last = rows.pop()!;
      text = last.text + text;
      [chunk, begins] = [last.chunk, last.begins];
    }
    for (let at = 0; ;) {
      const to = cut(text, at);
      rows.push({ text: text.slice(at, to), chunk, begins, ends: to === text.length && ends });
      begins = false;
      at = to;
      if (at >= text.length) break;
    }
    open = !ends;
  };
  const lines = (text: string, chunk: number, closed: boolean) => {
    for (let at = 0; ;) {
      const end = text.indexOf("\n", at);
      if (end < 0) {
        if (at < text.length || (closed && at === 0)) put(text.slice(at), chunk, closed);
        return;
      }
      put(text.slice(at, text[end - 1] === "\r" && end > at ? end - 1 : end), chunk, true);
      at = end + 1;
    }
  };

  return (output) => {
    if (chunks !== output.chunks) [chunks, done, rows, open] = [output.chunks, 0, [], false];
    for (; done < output.count; done++) {
      const raw = rawOf(chunks[done]!);
      const text = asString(raw);
      if (form === "chunks") lines(text ?? json(raw), done, true);
      else if (text !== null) lines(text, done, false);
      else {
        // JSON has lines of its own.
        if (open) {
          rows[rows.length - 1] = { ...rows.at(-1)!, ends: true };
          open = false;
        }
        lines(json(raw), done, true);
      }
    }
    return rows;
  };
}

/** All of it as a file has it: the text of the stream, or a line of JSON for each chunk. */
export function whole(output: Output, form: Form): string {
  const chunks = output.chunks.slice(0, output.count);
  if (form === "chunks") return chunks.map((c) => `{"n":${c.n},"at":${JSON.stringify(c.at)},"data":${oneLine(rawOf(c))}}\n`).join("");
  let out: string[] = [];
  let fresh = true;
  for (const chunk of chunks) {
    const raw = rawOf(chunk);
    const text = asString(raw);
    if (text === null) out.push(fresh ? "" : "\n", raw, "\n");
    else out.push(text);
    fresh = text === null || (text === "" ? fresh : text.endsWith("\n"));
  }
  return out.join("");
}

/** Line ends can stand only between the tokens of JSON; there a space is as good. */
const oneLine = (raw: string) => raw.replaceAll(/[\r\n]/g, " ");
