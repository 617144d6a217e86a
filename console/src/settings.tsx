/** What a person chooses for this browser: language and appearance. Kept in localStorage. */
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from "react";
import { en } from "./i18n/en.ts";
import { zh, type Dict } from "./i18n/zh.ts";

export type Language = "zh" | "en";
export type ThemeChoice = "light" | "dark" | "system";

interface Stored {
  language: Language;
  theme: ThemeChoice;
}

export interface Settings extends Stored {
  dark: boolean;
  text: Dict;
  set(change: Partial<Stored>): void;
}

const KEY = "tulou.settings";
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function stored(): Stored {
  try {
    const value = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Stored>;
    return {
      language: value.language === "en" ? "en" : "zh",
      theme: value.theme === "light" || value.theme === "dark" ? value.theme : "system",
    };
  } catch {
    return { language: "zh", theme: "system" };
  }
}

const Context = createContext<Settings | null>(null);

export function SettingsProvider({ children }: { children: ReactNode }) {
  const [chosen, choose] = useState(stored);
  const [prefersDark, setPrefersDark] = useState(systemDark.matches);

  useEffect(() => {
    const changed = (event: MediaQueryListEvent): void => setPrefersDark(event.matches);
    systemDark.addEventListener("change", changed);
    return () => systemDark.removeEventListener("change", changed);
  }, []);

  // A choice made in another tab holds in this one too.
  useEffect(() => {
    const changed = (event: StorageEvent): void => {
      if (event.key === KEY) choose(stored());
    };
    addEventListener("storage", changed);
    return () => removeEventListener("storage", changed);
  }, []);

  const dark = chosen.theme === "dark" || (chosen.theme === "system" && prefersDark);
  const text = chosen.language === "zh" ? zh : en;

  useEffect(() => {
    document.documentElement.dataset["theme"] = dark ? "dark" : "light";
    document.documentElement.lang = chosen.language === "zh" ? "zh-CN" : "en";
  }, [dark, chosen.language]);

  const set = useCallback((change: Partial<Stored>) => {
    choose((old) => {
      const next = { ...old, ...change };
      try {
        localStorage.setItem(KEY, JSON.stringify(next));
      } catch {
        // Storage may be forbidden; the choice then lasts as long as the page.
      }
      return next;
    });
  }, []);

  const value = useMemo(() => ({ ...chosen, dark, text, set }), [chosen, dark, text, set]);
  return <Context value={value}>{children}</Context>;
}

/** Dark within, whatever the reader has chosen: a wall is read in a dim room. */
export function DarkSettings({ children }: { children: ReactNode }) {
  const chosen = useSettings();
  useEffect(() => {
    document.documentElement.dataset["theme"] = "dark";
    return () => {
      document.documentElement.dataset["theme"] = chosen.dark ? "dark" : "light";
    };
  }, [chosen.dark]);
  const value = useMemo(() => ({ ...chosen, dark: true }), [chosen]);
  return <Context value={value}>{children}</Context>;
}

export function useSettings(): Settings {
  const settings = useContext(Context);
  if (!settings) throw new Error("useSettings outside SettingsProvider");
  return settings;
}

/** The dictionary of the chosen language. */
export const useText = (): Dict => useSettings().text;
