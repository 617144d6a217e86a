/** Common units of UN/CEFACT Recommendation 20: code and symbol. Names are in `i18n`. */
export const UNITS: [string, string][] = [
  ["C62", ""], ["P1", "%"], ["CEL", "°C"], ["KEL", "K"], ["VLT", "V"], ["AMP", "A"], ["WTT", "W"], ["KWT", "kW"], ["KWH", "kW·h"], ["HTZ", "Hz"],
  ["MTR", "m"], ["CMT", "cm"], ["MMT", "mm"], ["KMT", "km"], ["MTK", "m²"], ["MTQ", "m³"], ["LTR", "L"], ["MTS", "m/s"], ["KMH", "km/h"],
  ["MQH", "m³/h"], ["MQS", "m³/s"], ["L2", "L/min"], ["KGM", "kg"], ["GRM", "g"], ["TNE", "t"], ["PAL", "Pa"], ["KPA", "kPa"], ["MPA", "MPa"],
  ["A97", "hPa"], ["BAR", "bar"], ["GQ", "µg/m³"], ["GP", "mg/m³"], ["M1", "mg/L"], ["59", "ppm"], ["Q30", "pH"], ["G42", "µS/cm"], ["LUX", "lx"],
  ["2N", "dB"], ["DD", "°"], ["RPM", "r/min"], ["SEC", "s"], ["MIN", "min"], ["HUR", "h"], ["DAY", "d"],
];

/** Field protocols whose codes a property may have. */
export const PROTOCOLS = [
  "hj212", "jt808", "gb32960", "sl651", "ais", "modbus", "dlt645", "cjt188", "opcua", "ocpp", "gb28181", "lorawan", "coap",
];
