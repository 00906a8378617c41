// Compares the images of one unit with a slider, and lists the units of a cell as thumbnails.
(() => {
  const filled = DATA.cells.filter((cell) => cell.units.label?.length);
  if (!filled.length) return;
  $("compare").hidden = false;
  const [under, over, frame, slider, thumbs] = [$("under"), $("over"), $("frame"), $("slider"), $("thumbs")];
  for (const option of [...$("image-cell").options]) if (!filled.some((cell) => cell.id === option.value)) option.remove();
  let cell = filled.find((one) => one.id !== one.baseline) ?? filled[0];
  let unit = 0; // place in the cell's units
  let order = []; // places in the order shown

  const side = (name) => document.querySelector(`input[name=${name}]:checked`).value;
  const name = () => `${cell.units.label[unit]}_${cell.units.seed[unit]}`;
  const key = (kind) => `${kind === "baseline" ? cell.baseline : cell.id}/${name()}${kind === "difference" ? "_diff" : ""}`;

  function place(image, kind) {
    const own = picture(key(kind));
    image.onerror = () => {
      image.onerror = null;
      image.removeAttribute("src");
      image.dataset.absent = kind;
      report();
    };
    delete image.dataset.absent;
    image.alt = `${kind} of ${labelled(cell.units.label[unit])}, seed ${cell.units.seed[unit]}`;
    if (kind === "difference" && cell.id === cell.baseline) image.onerror();
    else image.src = own ?? `${DATA.images}${key(kind)}.png`;
    image.onload = () => image.classList.toggle("soft", image.naturalWidth > 128);
  }
  function report() {
    const kinds = [under, over].map((image) => image.dataset.absent).filter(Boolean);
    const note = $("absent");
    note.hidden = !kinds.length;
    if (!kinds.length) return;
    note.textContent = cell.id === cell.baseline && kinds.includes("difference")
      ? "The baseline differs from itself by nothing: there is no difference image."
      : `The full ${[...new Set(kinds)].join(" and ")} is not inside this file, and ${DATA.images} has none either: keep the page in its study's folder to see it. Thumbnails below are complete.`;
  }
  function split() {
    const value = Number(slider.value);
    over.style.clipPath = `inset(0 ${100 - value}% 0 0)`;
    $("handle").style.left = `${value}%`;
    slider.setAttribute("aria-valuetext", `${value} % ${side("left")}, ${100 - value} % ${side("right")}`);
  }
  function compare() {
    place(over, side("left"));
    place(under, side("right"));
    $("tag-left").textContent = side("left");
    $("tag-right").textContent = side("right") === "difference" ? "difference × 4" : side("right");
    for (const image of $("trio").querySelectorAll("img")) {
      place(image, image.dataset.kind);
      image.parentElement.hidden = image.dataset.kind === "difference" && cell.id === cell.baseline;
    }
    report();
    split();
    const u = cell.units;
    const pick = Object.entries(cell.picks).filter(([, at]) => at === unit).map(([word]) => word).join(", ");
    facts($("unit"), [
      ["class, seed", `${named(u.label[unit])}, ${u.seed[unit]}${pick ? ` (${pick})` : ""}`],
      ...DATA.facts.map(([key, heading, digits]) => [heading, digits ? shown(u[key]?.[unit], digits) : u[key]?.[unit] ?? "none"]),
    ]);
  }

  function list() {
    const u = cell.units;
    const label = $("label").value;
    order = u.label.map((_, i) => i).filter((i) => label === "" || String(u.label[i]) === label);
    const sign = { worst: -1, best: 1 }[$("order").value];
    if (sign) order.sort((a, b) => sign * ((u[DATA.headline][a] ?? 0) - (u[DATA.headline][b] ?? 0)) || a - b);
    const sprite = picture(`sprite/${cell.id}${$("kind").value}`);
    const rows = Math.ceil(u.label.length / cell.columns);
    const last = Math.max(cell.columns - 1, 1);
    thumbs.classList.toggle("few", order.length <= 24);
    thumbs.style.setProperty("--sprite", sprite ? `url("${sprite}")` : "none");
    thumbs.style.setProperty("--size", `${100 * cell.columns}% ${100 * rows}%`);
    thumbs.replaceChildren(...order.map((i) => {
      const node = document.createElement("div");
      node.setAttribute("role", "option");
      node.dataset.unit = i;
      node.style.backgroundPosition = `${(100 * (i % cell.columns)) / last}% ${rows > 1 ? (100 * Math.floor(i / cell.columns)) / (rows - 1) : 0}%`;
      node.title = `${labelled(u.label[i])}, seed ${u.seed[i]}, difference ${shown(u[DATA.headline][i], 4)}`;
      node.setAttribute("aria-label", node.title);
      return node;
    }));
    $("thumb-count").textContent = order.length < cell.all ? `${order.length} of ${cell.all} images` : `${order.length} images`;
    mark();
  }
  function mark(focus) {
    for (const node of thumbs.querySelectorAll("[aria-selected=true]")) node.removeAttribute("aria-selected");
    for (const node of thumbs.querySelectorAll("[tabindex]")) node.removeAttribute("tabindex");
    const node = thumbs.children[Math.max(order.indexOf(unit), 0)];
    if (!node) return;
    node.tabIndex = 0;
    if (order.includes(unit)) node.setAttribute("aria-selected", "true");
    if (focus) node.focus();
    if (order.includes(unit)) thumbs.scrollTop += Math.min(0, node.offsetTop - thumbs.scrollTop) + Math.max(0, node.offsetTop + node.offsetHeight - thumbs.scrollTop - thumbs.clientHeight);
  }
  function show(next, focus = false) {
    if (next === undefined) return;
    unit = next;
    mark(focus);
    compare();
  }
  const step = (by, focus) => order.length && show(order[Math.min(order.length - 1, Math.max(0, order.indexOf(unit) + by))], focus);

  function open(id) {
    const next = filled.find((one) => one.id === id);
    if (!next) return;
    cell = next;
    $("image-cell").value = id;
    const kept = $("label").value;
    const labels = [...new Set(cell.units.label)];
    $("label").replaceChildren(new Option("all", ""), ...labels.map((label) => new Option(named(label), label)));
    $("label").value = labels.map(String).includes(kept) ? kept : "";
    unit = cell.picks.worst;
    list();
    compare();
  }
  FOLLOWERS.push(open);
  $("image-cell").addEventListener("change", (event) => choose(event.target.value));
  for (const id of ["label", "order", "kind"]) $(id).addEventListener("change", list);
  for (const input of document.querySelectorAll("input[name=left], input[name=right]")) input.addEventListener("change", compare);
  slider.addEventListener("input", split);
  for (const button of document.querySelectorAll("[data-pick]")) button.addEventListener("click", () => show(cell.picks[button.dataset.pick]));
  for (const button of document.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(Number(button.dataset.step)));
  thumbs.addEventListener("click", (event) => event.target.dataset.unit && show(Number(event.target.dataset.unit), true));
  thumbs.addEventListener("keydown", (event) => {
    const across = Math.max(1, Math.round(thumbs.clientWidth / (thumbs.firstElementChild?.offsetWidth + 4)));
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -order.length, End: order.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by, true);
  });
  const drag = (event) => {
    const box = frame.getBoundingClientRect();
    slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
    split();
  };
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    drag(event);
  });
  frame.addEventListener("pointermove", (event) => frame.hasPointerCapture(event.pointerId) && drag(event));
})();
