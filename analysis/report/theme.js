// The page follows the system's light or dark until the reader chooses otherwise.
(() => {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const shown = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const label = () => { button.textContent = shown() === "dark" ? "Light page" : "Dark page"; };
  button.addEventListener("click", () => {
    root.dataset.theme = shown() === "dark" ? "light" : "dark";
    label();
    root.dispatchEvent(new Event("themechange"));
  });
  dark.addEventListener("change", () => {
    label();
    root.dispatchEvent(new Event("themechange"));
  });
  label();
  button.hidden = false;
})();
