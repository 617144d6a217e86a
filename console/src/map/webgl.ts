/** Whether this browser draws with WebGL 2; where not, the simple map stands in. */
export const hasWebgl = (): boolean => {
  try {
    return document.createElement("canvas").getContext("webgl2") !== null;
  } catch {
    return false;
  }
};
