// How often, hour by hour, as bars in a line of text.
import { busiest } from "../run/hours.ts";

const [WIDTH, HEIGHT, GAP] = [4, 20, 1];

export function Spark({ hours }: { hours: number[] }) {
  const most = Math.max(...hours, 1);
  return (
    <svg role="img" aria-label={busiest(hours)} width={hours.length * (WIDTH + GAP)} height={HEIGHT} className="inline-block align-middle text-bad">
      <title>{busiest(hours)}</title>
      <line x1="0" x2={hours.length * (WIDTH + GAP)} y1={HEIGHT - 0.5} y2={HEIGHT - 0.5} stroke="var(--line)" />
      {hours.map((n, i) => n > 0 && <rect key={i} x={i * (WIDTH + GAP)} width={WIDTH} y={HEIGHT - Math.max(2, (n / most) * HEIGHT)} height={Math.max(2, (n / most) * HEIGHT)} fill="currentColor" />)}
    </svg>
  );
}
