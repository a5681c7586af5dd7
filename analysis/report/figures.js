// Figures, one after another, so that the page answers meanwhile; anew when the page turns dark or light.
(() => {
  const { specifications, configurations } = JSON.parse(document.getElementById("specifications").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  // The policy of the page forbids evaluating text and styles that scripts add: expressions are interpreted, and the
  // page's own style sheet has what Vega would add.
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true,
    defaultStyle: false,
    logLevel: 1, // errors: an empty domain that a selection fills later is none
    tooltip: { disableDefaultStyle: true },
  };
  let latest = 0;

  // What a click on a legend's entry picks, as a list below the figure: a legend cannot be reached by keyboard.
  const offer = (box, { params = [] }) => {
    const legend = params.find(({ bind }) => bind === "legend");
    if (!legend) return;
    const signal = `${legend.name}_${legend.select.fields[0]}_legend`;
    const pick = (list) => box.view.signal(signal, list.value || null).runAsync();
    let list = box.parentElement.querySelector(".pick select");
    if (!list) {
      list = document.createElement("select");
      list.append(new Option("all", ""), ...box.view.scale("color").domain().map((entry) => new Option(entry, entry)));
      list.addEventListener("change", () => pick(list));
      const about = Object.assign(document.createElement("span"), { className: "spoken" });
      about.textContent = ` in: ${box.parentElement.querySelector("h3").textContent}`;
      const label = Object.assign(document.createElement("label"), { className: "pick" });
      label.append("Pick", about, list);
      box.parentElement.querySelector("figcaption").after(label);
    }
    box.view.addSignalListener(signal, (_, entry) => { list.value = entry ?? ""; });
    if (list.value) pick(list);
  };

  const draw = async () => {
    const turn = ++latest;
    const shown = theme();
    for (const box of document.querySelectorAll(".chart")) {
      await new Promise((resolve) => setTimeout(resolve));
      if (turn !== latest) return;
      const config = configurations[shown];
      try {
        await box.view?.finalize();
        const { view } = await vegaEmbed(box.firstElementChild, specifications[box.dataset.figure], { ...options, config });
        box.view = view;
        offer(box, specifications[box.dataset.figure]);
        box.dataset.drawn = shown;
      } catch (problem) {
        box.firstElementChild.textContent = `This figure could not be drawn: ${problem.message}. Its data is in the table below.`;
        box.dataset.drawn = "failed";
      }
    }
    root.dataset.figures = "drawn";
  };

  root.addEventListener("themechange", draw);
  draw();
})();
