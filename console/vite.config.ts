import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, type Plugin } from "vite";
import { outlines } from "./scripts/outlines.ts";

const OUT = resolve(import.meta.dirname, "../src/tulou/console/static");

/** `import url from "virtual:outlines"` is the address of the decoded GeoJSON, an asset like any other. */
function outlinesAsset(): Plugin {
  const id = "\0outlines";
  const devPath = "/outlines.json";
  let serving = false;
  return {
    name: "outlines",
    configResolved: (config) => void (serving = config.command === "serve"),
    resolveId: (source) => (source === "virtual:outlines" ? id : undefined),
    load(source) {
      if (source !== id) return;
      if (serving) return `export default ${JSON.stringify(devPath)}`;
      const ref = this.emitFile({ type: "asset", name: "outlines.json", source: JSON.stringify(outlines()) });
      return `export default import.meta.ROLLUP_FILE_URL_${ref}`;
    },
    configureServer(server) {
      server.middlewares.use(devPath, (_request, response) => {
        response.setHeader("Content-Type", "application/json");
        response.end(JSON.stringify(outlines()));
      });
    },
  };
}

/** Beside every text asset its .br and .gz, so that the house never compresses the same file twice. */
function compressed(): Plugin {
  return {
    name: "compressed",
    apply: "build",
    closeBundle() {
      for (const entry of readdirSync(OUT, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile() || !/\.(js|mjs|css|json|svg|html)$/.test(entry.name)) continue;
        const path = join(entry.parentPath, entry.name);
        const bytes = readFileSync(path);
        if (bytes.length < 1024) continue;
        writeFileSync(`${path}.gz`, gzipSync(bytes, { level: 9 }));
        writeFileSync(
          `${path}.br`,
          brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 10 } }),
        );
      }
    },
  };
}

export default defineConfig({
  plugins: [react(), outlinesAsset(), compressed()],
  build: {
    outDir: OUT,
    emptyOutDir: true,
    target: "es2022",
    chunkSizeWarningLimit: 1200,
    assetsInlineLimit: 0,
  },
  server: { proxy: Object.fromEntries(["/api", "/ngsi-ld"].map((door) => [door, process.env["TULOU_URL"] ?? "http://127.0.0.1:8080"])) },
});
