/** Choose language and appearance. */
import { BulbOutlined, DesktopOutlined, GlobalOutlined, MoonOutlined, SunOutlined } from "@ant-design/icons";
import { Button, Dropdown } from "antd";
import { useSettings, type ThemeChoice } from "../settings.tsx";

export function LanguageButton() {
  const { language, set } = useSettings();
  const other = language === "zh" ? "en" : "zh";
  const label = other === "en" ? "English" : "中文";
  return (
    <Button
      type="text"
      icon={<GlobalOutlined aria-hidden />}
      lang={other === "en" ? "en" : "zh-CN"}
      onClick={() => set({ language: other })}
      data-testid="language"
    >
      {label}
    </Button>
  );
}

export function ThemeButton() {
  const { theme, text, set } = useSettings();
  const icons = { light: <SunOutlined />, dark: <MoonOutlined />, system: <DesktopOutlined /> };
  const choices: ThemeChoice[] = ["light", "dark", "system"];
  return (
    <Dropdown
      trigger={["click"]}
      menu={{
        selectedKeys: [theme],
        items: choices.map((key) => ({ key, icon: icons[key], label: text.settings[key] })),
        onClick: ({ key }) => set({ theme: key as ThemeChoice }),
      }}
    >
      <Button type="text" icon={<BulbOutlined />} aria-label={text.settings.theme} data-testid="theme" />
    </Dropdown>
  );
}
