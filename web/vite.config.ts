import tailwind from "@tailwindcss/vite";
import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// `npm run dev` beside a gateway: what is not ours goes there.
const gateway = process.env.STEPWELL_URL ?? "http://127.0.0.1:8484";
const theirs = ["/v1", "/healthz", "/docs", "/problems", "/openapi", "/assets/icon.svg", "/assets/style.css", "/assets/docs.js", "/assets/dom.js"];

export default defineConfig({
  // Addresses hang on `<base>`, which the gateway sets to fit where the page is.
  base: "./",
  plugins: [react(), tailwind()],
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000, modulePreload: { polyfill: false } },
  server: { proxy: Object.fromEntries(theirs.map((path) => [path, { target: gateway }])) },
  // The machine may be busy with other things.
  test: { include: ["src/**/*.test.ts"], environment: "node", testTimeout: 60_000 },
});
