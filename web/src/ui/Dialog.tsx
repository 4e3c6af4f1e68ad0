// A dialog by the browser's own means: focus stays in it, Escape closes it, the page behind is inert.
import { X } from "lucide-react";
import { useEffect, useRef, type ReactNode } from "react";

export function Dialog({ title, onClose, children, wide }: { title: string; onClose: () => void; children: ReactNode; wide?: boolean }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current!;
    if (!dialog.open) dialog.showModal();
    return () => dialog.close();
  }, []);
  return (
    <dialog ref={ref} aria-label={title} onCancel={(e) => { e.preventDefault(); onClose(); }}
      onMouseDown={(e) => { if (e.target === ref.current) onClose(); }}
      className={`max-h-[90dvh] rounded-lg border border-line bg-bg p-0 shadow-2xl ${wide ? "w-[820px]" : "w-[600px]"} max-w-[94vw]`}>
      <div className="flex max-h-[90dvh] flex-col">
        <header className="flex items-center gap-3 border-b px-4 py-2.5">
          <h2 className="breaks min-w-0 flex-1 text-[15px]">{title}</h2>
          <button type="button" className="btn bare" aria-label="Close" onClick={onClose}><X size={16} aria-hidden /></button>
        </header>
        <div className="overflow-auto px-4 py-3">{children}</div>
      </div>
    </dialog>
  );
}
