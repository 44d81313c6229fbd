// Runs before the first paint, so that a chosen theme does not flash.
(() => {
  let theme = "auto";
  try {
    theme = JSON.parse(localStorage.getItem("chatglm.theme")) ?? "auto";
  } catch {
    // No storage: as the system has it.
  }
  document.documentElement.dataset.theme = theme;
})();
