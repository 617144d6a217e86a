import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { App as AntApp, ConfigProvider } from "antd";
import enGB from "antd/locale/en_GB";
import zhCN from "antd/locale/zh_CN";
import { StrictMode, useMemo, type ReactNode } from "react";
import { createRoot } from "react-dom/client";
import { BrowserRouter } from "react-router";
import { Problem } from "./api/client.ts";
import { App } from "./app.tsx";
import { SettingsProvider, useSettings } from "./settings.tsx";
import "./style.css";
import { themeOf } from "./theme.ts";

const client = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 5000,
      refetchOnWindowFocus: false,
      // Asking again helps only where the house was away, never where it refused.
      retry: (count, error) => count < 2 && !(error instanceof Problem && error.status >= 400 && error.status < 500),
    },
  },
});

function Themed({ children }: { children: ReactNode }) {
  const { dark, language } = useSettings();
  const theme = useMemo(() => themeOf(dark), [dark]);
  return (
    <ConfigProvider theme={theme} locale={language === "zh" ? zhCN : enGB} button={{ autoInsertSpace: false }}>
      <AntApp className="root" message={{ maxCount: 3 }}>
        {children}
      </AntApp>
    </ConfigProvider>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <SettingsProvider>
      <QueryClientProvider client={client}>
        <Themed>
          <BrowserRouter>
            <App />
          </BrowserRouter>
        </Themed>
      </QueryClientProvider>
    </SettingsProvider>
  </StrictMode>,
);
