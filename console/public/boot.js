// Before the first paint: the stored (or the system's) theme, so that a dark console never flashes white.
(function () {
  var stored = null;
  try {
    stored = JSON.parse(localStorage.getItem("tulou.settings") || "null");
  } catch (_error) {}
  var theme = (stored && stored.theme) || "system";
  if (theme === "system") theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
})();
