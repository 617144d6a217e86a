/**
 * Entities as one GPU layer: a vertex each, so that 100,000 move as lightly as ten.
 *
 * Positions are Mercator offsets from Fujian's middle in 32-bit floats (about 5 cm), the state is one byte a
 * point and is rewritten in place as the live stream speaks. Synthetic entities are rings, real ones discs.
 */
import KDBush from "kdbush";
import type { CustomLayerInterface, CustomRenderMethodInput, Map as MapLibre } from "maplibre-gl";
import type { MapColumns } from "../api/types.ts";

const ORIGIN = [0.8278, 0.4252] as const;
const SYNTHETIC = 4;
const HIDDEN = 8;
const PULSE_MS = 1600;
const PULSES = 400;

export type Rgb = [number, number, number];

const mercatorX = (lon: number): number => (lon + 180) / 360;
const mercatorY = (lat: number): number =>
  (1 - Math.log(Math.tan(Math.PI / 4 + (lat * Math.PI) / 360)) / Math.PI) / 2;

const VERTEX = `#version 300 es
uniform mat4 u_matrix;
uniform float u_size;
uniform float u_pass;
in vec2 a_pos;
in uint a_flags;
in float a_age;
flat out uint v_state;
flat out float v_ring;
flat out float v_size;
flat out float v_age;
void main() {
  v_state = a_flags & 3u;
  v_ring = (a_flags & 4u) != 0u ? 1.0 : 0.0;
  v_age = a_age;
  bool alarm = v_state == 1u;
  bool hidden = (a_flags & 8u) != 0u || (u_pass == 0.0 && alarm) || (u_pass == 1.0 && !alarm);
  float size = u_size * (alarm ? 1.45 : 1.0) + v_ring * 1.2;
  if (u_pass == 2.0) size = u_size * (1.4 + 3.2 * a_age);
  v_size = size;
  gl_Position = hidden ? vec4(2.0, 2.0, 2.0, 1.0) : u_matrix * vec4(a_pos, 0.0, 1.0);
  gl_PointSize = size + 2.0;
}`;

const FRAGMENT = `#version 300 es
precision highp float;
uniform vec3 u_colours[3];
uniform vec3 u_edge;
uniform float u_pass;
uniform float u_ratio;
uniform float u_alpha;
flat in uint v_state;
flat in float v_ring;
flat in float v_size;
flat in float v_age;
out vec4 colour;
void main() {
  float radius = v_size * 0.5;
  float distance = length(gl_PointCoord - 0.5) * (v_size + 2.0);
  float inside = 1.0 - smoothstep(radius - 0.5, radius + 0.5, distance);
  if (inside <= 0.0) discard;
  vec3 own = u_colours[v_state];
  float width = max(1.0 * u_ratio, radius * 0.38);
  float core = 1.0 - smoothstep(radius - width - 0.5, radius - width + 0.5, distance);
  float alpha;
  if (u_pass == 2.0) {
    alpha = inside * (1.0 - core * 0.8) * (1.0 - v_age) * 0.45;
  } else if (v_ring > 0.5) {
    alpha = inside * (1.0 - core * 0.94) * u_alpha;
  } else {
    float rim = smoothstep(radius - u_ratio * 0.9, radius, distance);
    own = radius > 3.0 * u_ratio ? mix(own, u_edge, rim * 0.8) : own;
    alpha = inside * u_alpha;
  }
  colour = vec4(own * alpha, alpha);
}`;

export class PointLayer implements CustomLayerInterface {
  readonly id = "entities";
  readonly type = "custom" as const;
  readonly renderingMode = "2d" as const;

  private map: MapLibre | null = null;
  private program: WebGLProgram | null = null;
  private arrays: WebGLVertexArrayObject | null = null;
  private flagBuffer: WebGLBuffer | null = null;
  private pulseArrays: WebGLVertexArrayObject | null = null;
  private pulseBuffers: [WebGLBuffer, WebGLBuffer, WebGLBuffer] | null = null;
  private readonly positions: Float32Array;
  private readonly flags: Uint8Array;
  private dirty = false;
  private readonly tree: KDBush;
  private readonly rows = new Map<number, number>();
  private pulses: { row: number; at: number }[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly columns: MapColumns,
    private readonly colours: { states: [Rgb, Rgb, Rgb]; edge: Rgb },
    private readonly still: boolean,
  ) {
    const count = columns.no.length;
    this.positions = new Float32Array(count * 2);
    this.flags = new Uint8Array(count);
    this.tree = new KDBush(Math.max(count, 1), 64, Float64Array);
    for (let row = 0; row < count; row++) {
      const x = mercatorX(columns.lon[row]!);
      const y = mercatorY(columns.lat[row]!);
      this.positions[row * 2] = x - ORIGIN[0];
      this.positions[row * 2 + 1] = y - ORIGIN[1];
      this.flags[row] = (columns.state[row]! & 3) | (columns.synthetic[row] ? SYNTHETIC : 0);
      this.rows.set(columns.no[row]!, row);
      this.tree.add(x, y);
    }
    if (count === 0) this.tree.add(-1, -1);
    this.tree.finish();
  }

  onAdd(map: MapLibre, gl: WebGL2RenderingContext | WebGLRenderingContext): void {
    if (!(gl instanceof WebGL2RenderingContext)) return;
    this.map = map;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ] as const) {
      const shader = gl.createShader(kind)!;
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "a_pos");
    gl.bindAttribLocation(program, 1, "a_flags");
    gl.bindAttribLocation(program, 2, "a_age");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS))
      throw new Error(gl.getProgramInfoLog(program) ?? "shader program");
    this.program = program;

    this.arrays = gl.createVertexArray();
    gl.bindVertexArray(this.arrays);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, this.positions, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    this.flagBuffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.flagBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, this.flags, gl.DYNAMIC_DRAW);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_BYTE, 0, 0);

    this.pulseArrays = gl.createVertexArray();
    this.pulseBuffers = [gl.createBuffer(), gl.createBuffer(), gl.createBuffer()];
    gl.bindVertexArray(this.pulseArrays);
    this.pulseBuffers.forEach((buffer, location) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(location);
      if (location === 1) gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_BYTE, 0, 0);
      else gl.vertexAttribPointer(location, location === 0 ? 2 : 1, gl.FLOAT, false, 0, 0);
    });
    gl.bindVertexArray(null);
  }

  onRemove(): void {
    clearTimeout(this.timer);
    this.map = null;
  }

  /** Where points lie upon each other they are faint, so that their number shows as depth of colour. */
  private opacity(zoom: number): number {
    const crowd = Math.log10(Math.max(this.columns.no.length, 10)) - 3.3 - Math.max(0, zoom - 6) * 0.55;
    return Math.min(0.88, Math.max(0.3, 0.88 - 0.4 * crowd));
  }

  /** Diameter of a point at the map's zoom, CSS pixels. */
  diameter(zoom: number): number {
    const count = this.columns.no.length;
    const crowd = count > 20_000 ? 0.72 : count > 3000 ? 1 : 1.45;
    return Math.min(14, Math.max(2.8, (4.4 + (zoom - 6.5) * 1.5) * crowd));
  }

  render(gl: WebGL2RenderingContext | WebGLRenderingContext, input: CustomRenderMethodInput): void {
    if (!(gl instanceof WebGL2RenderingContext) || !this.map || !this.program || !this.arrays) return;
    const ratio = this.map.getPixelRatio();
    const program = this.program;
    const at = (name: string): WebGLUniformLocation | null => gl.getUniformLocation(program, name);
    gl.useProgram(program);
    gl.uniformMatrix4fv(at("u_matrix"), false, shifted(input.defaultProjectionData.mainMatrix));
    gl.uniform1f(at("u_size"), this.diameter(this.map.getZoom()) * ratio);
    gl.uniform1f(at("u_ratio"), ratio);
    gl.uniform3fv(at("u_colours"), this.colours.states.flat());
    gl.uniform3fv(at("u_edge"), this.colours.edge);
    gl.disable(gl.DEPTH_TEST);
    gl.disable(gl.STENCIL_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.bindVertexArray(this.arrays);
    gl.vertexAttrib1f(2, 0);
    if (this.dirty) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.flagBuffer);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, this.flags);
      this.dirty = false;
    }
    for (const pass of [0, 1]) {
      gl.uniform1f(at("u_pass"), pass);
      gl.uniform1f(at("u_alpha"), pass ? 0.95 : this.opacity(this.map.getZoom()));
      gl.drawArrays(gl.POINTS, 0, this.columns.no.length);
    }
    this.drawPulses(gl, at("u_pass"));
    gl.bindVertexArray(null);
  }

  private drawPulses(gl: WebGL2RenderingContext, pass: WebGLUniformLocation | null): void {
    const now = performance.now();
    this.pulses = this.pulses.filter(({ at }) => now - at < PULSE_MS);
    const count = this.pulses.length;
    if (!count || !this.pulseBuffers) return;
    const positions = new Float32Array(count * 2);
    const flags = new Uint8Array(count);
    const ages = new Float32Array(count);
    this.pulses.forEach(({ row, at }, i) => {
      positions.set(this.positions.subarray(row * 2, row * 2 + 2), i * 2);
      flags[i] = this.flags[row]!;
      ages[i] = (now - at) / PULSE_MS;
    });
    gl.bindVertexArray(this.pulseArrays);
    [positions, flags, ages].forEach((data, i) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.pulseBuffers![i]!);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STREAM_DRAW);
    });
    gl.uniform1f(pass, 2);
    gl.drawArrays(gl.POINTS, 0, count);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.map?.triggerRepaint(), 60);
  }

  /** These entities have just spoken: a faint ring spreads from each. */
  touch(numbers: number[]): void {
    if (this.still) return;
    const at = performance.now();
    for (const no of numbers.slice(0, PULSES)) {
      const row = this.rows.get(no);
      if (row !== undefined && !(this.flags[row]! & HIDDEN)) this.pulses.push({ row, at });
    }
    this.pulses = this.pulses.slice(-PULSES);
    if (this.pulses.length) this.map?.triggerRepaint();
  }

  /** Set an entity's state: 0 ok, 1 alarm, 2 offline. */
  setState(no: number, state: number): void {
    const row = this.rows.get(no);
    if (row === undefined || (this.flags[row]! & 3) === state) return;
    this.flags[row] = (this.flags[row]! & ~3) | (state & 3);
    this.columns.state[row] = state;
    this.changed();
  }

  /** Show only entities for which `shown` says yes. */
  filter(shown: (row: number) => boolean): void {
    for (let row = 0; row < this.flags.length; row++)
      this.flags[row] = shown(row) ? this.flags[row]! & ~HIDDEN : this.flags[row]! | HIDDEN;
    this.changed();
  }

  private changed(): void {
    this.dirty = true;
    this.map?.triggerRepaint();
  }

  /** The row nearest to a place, within `radius` CSS pixels at `zoom`; an alarm wins over its neighbours. */
  find(lon: number, lat: number, zoom: number, radius: number): number | null {
    const x = mercatorX(lon);
    const y = mercatorY(lat);
    const reach = radius / (512 * 2 ** zoom);
    let best: number | null = null;
    let bestScore = Infinity;
    for (const row of this.tree.within(x, y, reach)) {
      const flags = this.flags[row];
      if (flags === undefined || flags & HIDDEN) continue;
      const dx = this.positions[row * 2]! + ORIGIN[0] - x;
      const dy = this.positions[row * 2 + 1]! + ORIGIN[1] - y;
      const score = dx * dx + dy * dy - ((flags & 3) === 1 ? reach * reach : 0);
      if (score < bestScore) {
        bestScore = score;
        best = row;
      }
    }
    return best;
  }
}

/** The map's matrix for positions relative to ORIGIN, multiplied in doubles before it is rounded. */
function shifted(matrix: ArrayLike<number>): Float32Array {
  const result = new Float32Array(16);
  for (let i = 0; i < 16; i++) result[i] = matrix[i]!;
  for (let row = 0; row < 4; row++)
    result[12 + row] = matrix[row]! * ORIGIN[0] + matrix[4 + row]! * ORIGIN[1] + matrix[12 + row]!;
  return result;
}
