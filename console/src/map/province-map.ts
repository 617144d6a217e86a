/** The map of the province on which pages draw their points: controls, bounds, and what it is drawn from. */
import { AttributionControl, Map as MapLibre, NavigationControl, ScaleControl, setWorkerUrl, type MapOptions } from "maplibre-gl";
import "maplibre-gl/dist/maplibre-gl.css";
import workerUrl from "maplibre-gl/dist/maplibre-gl-worker.mjs?worker&url";
import type { Outlines } from "../../scripts/outlines.ts";
import type { Settings } from "../settings.tsx";
import { DARK, LIGHT } from "../theme.ts";
import { FUJIAN, mapStyle } from "./style.ts";

setWorkerUrl(workerUrl);

export function provinceMap(
  container: HTMLElement,
  outlines: Outlines,
  { dark, language, text }: Pick<Settings, "dark" | "language" | "text">,
  more: Partial<MapOptions> = {},
): MapLibre {
  const map = new MapLibre({
    container,
    style: mapStyle(outlines, dark ? DARK : LIGHT, language),
    bounds: FUJIAN,
    fitBoundsOptions: { padding: 12 },
    maxBounds: [105, 15, 131, 37],
    maxZoom: 17,
    dragRotate: false,
    pitchWithRotate: false,
    touchPitch: false,
    attributionControl: false,
    fadeDuration: 0,
    locale: { "NavigationControl.ResetBearing": text.cockpit.resetView },
    ...more,
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new ScaleControl({ maxWidth: 90 }), "bottom-left");
  map.addControl(new AttributionControl({ compact: false, customAttribution: text.cockpit.attribution }), "bottom-right");
  return map;
}
