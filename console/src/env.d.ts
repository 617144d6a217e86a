/// <reference types="vite/client" />
declare module "virtual:outlines" {
  /** Address of the GeoJSON that `scripts/outlines.ts` makes. */
  const url: string;
  export default url;
}
