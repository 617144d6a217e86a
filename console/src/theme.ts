/**
 * The look: sea blue for what can be done, the earth of a tulou's wall for the house itself, and the four
 * state colours. The same values serve Ant Design, the charts and the map.
 */
import { theme, type ThemeConfig } from "antd";

export interface Palette {
  page: string;
  panel: string;
  line: string;
  text: string;
  muted: string;
  primary: string;
  earth: string;
  ok: string;
  warning: string;
  alarm: string;
  offline: string;
  sea: string;
  land: string;
  province: string;
  provinceLine: string;
  cityLine: string;
  label: string;
}

export const LIGHT: Palette = {
  page: "#f3f5f7",
  panel: "#ffffff",
  line: "#e3e8ed",
  text: "#1c2733",
  muted: "#5f6d7b",
  primary: "#1b5e94",
  earth: "#8a5a2b",
  ok: "#1d7f5c",
  warning: "#a86400",
  alarm: "#c43327",
  offline: "#6f7b87",
  sea: "#dfe9f0",
  land: "#eceeeb",
  province: "#fbfaf6",
  provinceLine: "#8e8a7c",
  cityLine: "#cfcabb",
  label: "#4a5560",
};

export const DARK: Palette = {
  page: "#10161d",
  panel: "#171f28",
  line: "#28333f",
  text: "#e4eaf0",
  muted: "#94a2b0",
  primary: "#5aa2da",
  earth: "#d0a06a",
  ok: "#43b58a",
  warning: "#d99a3d",
  alarm: "#ec6a5e",
  offline: "#7f8c99",
  sea: "#0d141b",
  land: "#161d24",
  province: "#202a34",
  provinceLine: "#5b6875",
  cityLine: "#35424f",
  label: "#a9b6c3",
};

/** Colours that packs name for steps of a scale; green to maroon are those of air quality in China. */
const STEPS: Record<string, string> = {
  blue: "#3f7fd0", cyan: "#35a7bd", green: "#2f9e6e", yellow: "#d3ac1f", orange: "#e58432", red: "#cf4034", purple: "#93408f",
  maroon: "#6d2740", grey: "#8a96a2",
};
/** From good to bad, where a pack names none. */
const RAMP = ["green", "yellow", "orange", "red", "purple", "maroon"].map((name) => STEPS[name]!);
/** Lines side by side. */
export const SERIES = ["#3a86c8", "#e08a3c", "#3a9e78", "#c4504a", "#8b6fc0", "#b08d3a", "#4bb0b8", "#c46a9f", "#7d8a97", "#6f9a3c"];

/** The colours of the steps of a scale. */
export function levelColours(levels: { colour: string | null }[], better: "higher" | "lower" | null): string[] {
  const count = levels.length;
  const ramp = levels.map((_, i) => (count === 2 && i === 1 ? RAMP[3]! : RAMP[count <= RAMP.length ? i : Math.round((i * (RAMP.length - 1)) / (count - 1))]!));
  if (better === "higher") ramp.reverse();
  return levels.map(({ colour }, i) => (colour && STEPS[colour]) || ramp[i]!);
}

export const FONT =
  '-apple-system, BlinkMacSystemFont, "Segoe UI", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", ' +
  '"Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", Roboto, "Helvetica Neue", Arial, sans-serif';
export const MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace';

// Grounds of tags and notices: the algorithm makes muddy ones of colours as deep as these.
const SOFT_LIGHT = {
  colorPrimaryBg: "#e6eff6",
  colorPrimaryBgHover: "#d8e6f1",
  colorInfoBg: "#e9f1f8",
  colorInfoBorder: "#bdd4e6",
  colorSuccessBg: "#e7f4ee",
  colorSuccessBorder: "#b4dbc9",
  colorWarningBg: "#fcf2e1",
  colorWarningBorder: "#ecd2a2",
  colorErrorBg: "#fbeceb",
  colorErrorBorder: "#efc0bc",
  controlItemBgActive: "#e6eff6",
  controlItemBgActiveHover: "#d8e6f1",
};
const SOFT_DARK = {
  colorPrimaryBg: "#1d3142",
  colorPrimaryBgHover: "#24405a",
  colorInfoBg: "#1a2c3c",
  colorInfoBorder: "#2b4a66",
  colorSuccessBg: "#17322a",
  colorSuccessBorder: "#265243",
  colorWarningBg: "#362b18",
  colorWarningBorder: "#5c4723",
  colorErrorBg: "#35211f",
  colorErrorBorder: "#5f3733",
  controlItemBgActive: "#1d3142",
  controlItemBgActiveHover: "#24405a",
};

export function themeOf(dark: boolean): ThemeConfig {
  const palette = dark ? DARK : LIGHT;
  return {
    algorithm: dark ? theme.darkAlgorithm : theme.defaultAlgorithm,
    token: {
      colorPrimary: palette.primary,
      colorInfo: palette.primary,
      colorLink: palette.primary,
      colorSuccess: palette.ok,
      colorWarning: palette.warning,
      colorError: palette.alarm,
      colorTextBase: palette.text,
      colorBgBase: palette.panel,
      colorBgLayout: palette.page,
      colorBgContainer: palette.panel,
      colorBgElevated: dark ? "#1d2731" : "#ffffff",
      colorBorder: dark ? "#3a4653" : "#cfd6dd",
      colorBorderSecondary: palette.line,
      colorTextSecondary: palette.muted,
      colorTextTertiary: palette.muted,
      colorTextDescription: palette.muted,
      ...(dark ? SOFT_DARK : SOFT_LIGHT),
      borderRadius: 6,
      fontFamily: FONT,
      fontFamilyCode: MONO,
      wireframe: false,
    },
    components: {
      Layout: { headerBg: palette.panel, siderBg: palette.panel, bodyBg: palette.page, headerHeight: 52 },
      Menu: {
        itemBg: "transparent",
        subMenuItemBg: "transparent",
        activeBarBorderWidth: 0,
        itemHeight: 38,
        itemSelectedBg: dark ? "#1d3142" : "#e6eff6",
        itemSelectedColor: palette.primary,
        groupTitleFontSize: 13,
      },
      Table: { headerBg: dark ? "#1b242e" : "#f7f9fa", cellPaddingBlockMD: 9 },
    },
  };
}
