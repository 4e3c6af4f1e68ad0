// How often, hour by hour or minute by minute, as bars in a line of text.
import { busiest } from "../run/hours.ts";

const [WIDTH, HEIGHT, GAP] = [4, 20, 1];

/** Of the last hours how often it went wrong. */
export const Spark = ({ hours }: { hours: number[] }) => <span className="text-bad"><Bars counts={hours} label={busiest(hours)} /></span>;

/** Counts, the oldest first, in the colour of the text around; `label`: what they say. */
export function Bars({ counts, label }: { counts: number[]; label: string }) {
  const most = Math.max(...counts, 1);
  return (
    <svg role="img" aria-label={label} width={counts.length * (WIDTH + GAP)} height={HEIGHT} className="inline-block align-middle">
      <title>{label}</title>
      <line x1="0" x2={counts.length * (WIDTH + GAP)} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} stroke="var(--line)" />
      {counts.map((n, i) => n > 0 && <rect key={i} x={i * (WIDTH + GAP)} width={WIDTH} y={HEIGHT - Math.max(2, (n / most) * HEIGHT)} height={Math.max(2, (n / most) * HEIGHT)} fill="currentColor" />)}
    </svg>
  );
}
