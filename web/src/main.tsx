// The dashboard: watch runs, see why one does not move, and do something about it.
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Problem } from "./api/client.ts";
import { router } from "./router.tsx";
import "./style.css";
import "./ui/prefs.ts";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // What the gateway refuses is not asked again; a gateway that is away is.
      retry: (failures, error) => !(error instanceof Problem && error.status < 500) && failures < 2,
      refetchOnWindowFocus: true,
      staleTime: 1000,
    },
  },
});

createRoot(document.getElementById("app")!).render(
  <StrictMode>
    <QueryClientProvider client={queries}><RouterProvider router={router} /></QueryClientProvider>
  </StrictMode>,
);
