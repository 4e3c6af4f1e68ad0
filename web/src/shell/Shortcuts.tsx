import { Dialog } from "../ui/Dialog.tsx";
import { Kbd } from "../ui/bits.tsx";
import { SHEET } from "./shortcuts.ts";

export function Shortcuts({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <div className="grid gap-5 sm:grid-cols-2">
        {SHEET.map(([group, keys]) => (
          <section key={group}>
            <h3 className="mb-1.5 font-semibold">{group}</h3>
            <dl className="grid grid-cols-[max-content_1fr] items-baseline gap-x-3 gap-y-1">
              {keys.map(([key, does]) => <div key={key} className="contents"><dt className="max-w-32"><Kbd>{key}</Kbd></dt><dd className="text-dim">{does}</dd></div>)}
            </dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}
