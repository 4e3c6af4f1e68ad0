// What an act came to, for some seconds, where a screen reader hears it too.
import { useEffect, useState, type ReactNode } from "react";

export function useSaid(): [ReactNode, (words: string) => void] {
  const [said, say] = useState<string | null>(null);
  useEffect(() => { if (said) { const later = setTimeout(() => say(null), 6000); return () => clearTimeout(later); } }, [said]);
  return [<p role="status" className={said ? "fixed bottom-4 left-1/2 z-30 -translate-x-1/2 rounded-lg border border-good bg-good-bg px-4 py-2 text-good shadow-xl" : "sr-only"}>{said}</p>, say];
}
