/** The map's own style: sea, land, Fujian and its cities. No tile, glyph or sprite is asked for. */
import type { StyleSpecification } from "maplibre-gl";
import type { Outlines } from "../../scripts/outlines.ts";
import type { Language } from "../settings.tsx";
import type { Palette } from "../theme.ts";

const CITIES: Record<string, string> = {
  福州市: "Fuzhou",
  厦门市: "Xiamen",
  莆田市: "Putian",
  三明市: "Sanming",
  泉州市: "Quanzhou",
  漳州市: "Zhangzhou",
  南平市: "Nanping",
  龙岩市: "Longyan",
  宁德市: "Ningde",
};

/** Fujian with a margin: [west, south, east, north], degrees. */
export const FUJIAN: [number, number, number, number] = [115.75, 23.45, 120.75, 28.4];

export const cityName = (name: string, language: Language): string =>
  language === "zh" ? name.replace(/市$/, "") : (CITIES[name] ?? name);

export function mapStyle(outlines: Outlines, palette: Palette, language: Language): StyleSpecification {
  return {
    version: 8,
    sources: {
      outlines: { type: "geojson", data: outlines, tolerance: 0.2 },
      seats: {
        type: "geojson",
        data: {
          type: "FeatureCollection",
          features: outlines.features
            .filter(({ properties }) => properties.kind === "city")
            .map(({ properties }) => ({
              type: "Feature",
              properties: { name: cityName(properties.name, language) },
              geometry: { type: "Point", coordinates: properties.label },
            })),
        },
      },
    },
    layers: [
      { id: "sea", type: "background", paint: { "background-color": palette.sea } },
      {
        id: "land",
        type: "fill",
        source: "outlines",
        filter: ["==", ["get", "kind"], "land"],
        paint: { "fill-color": palette.land },
      },
      {
        id: "land-line",
        type: "line",
        source: "outlines",
        filter: ["==", ["get", "kind"], "land"],
        paint: { "line-color": palette.cityLine, "line-width": 0.6, "line-opacity": 0.7 },
      },
      {
        id: "province-line",
        type: "line",
        source: "outlines",
        filter: ["==", ["get", "kind"], "city"],
        layout: { "line-join": "round" },
        paint: {
          "line-color": palette.provinceLine,
          "line-width": ["interpolate", ["linear"], ["zoom"], 5, 2, 9, 3.2],
        },
      },
      {
        id: "province",
        type: "fill",
        source: "outlines",
        filter: ["==", ["get", "kind"], "city"],
        paint: { "fill-color": palette.province, "fill-antialias": false },
      },
      {
        id: "city-line",
        type: "line",
        source: "outlines",
        filter: ["==", ["get", "kind"], "city"],
        layout: { "line-join": "round" },
        paint: { "line-color": palette.cityLine, "line-width": 1 },
      },
      {
        id: "city-name",
        type: "symbol",
        source: "seats",
        layout: {
          "text-field": ["get", "name"],
          "text-font": ["PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "sans-serif"],
          "text-size": ["interpolate", ["linear"], ["zoom"], 5, 11, 9, 15],
          "text-letter-spacing": language === "zh" ? 0.12 : 0.02,
          "text-variable-anchor": ["center", "bottom-right", "right", "top-left", "left", "bottom", "top"],
          "text-radial-offset": 0.3,
          "text-justify": "auto",
        },
        paint: {
          "text-color": palette.label,
          "text-halo-color": palette.province,
          "text-halo-width": 2,
        },
      },
    ],
  };
}
