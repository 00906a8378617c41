// A figure opens large; + and − or the buttons zoom, Escape closes.
(() => {
  const box = $("lightbox");
  const image = $("lightbox-image");
  let scale = 0;
  function zoom(factor) {
    const fit = Math.min(1, (box.clientWidth - 32) / image.naturalWidth, (innerHeight - 120) / image.naturalHeight);
    scale = factor === 0 ? fit : Math.min(8, Math.max(0.1, (scale || fit) * factor));
    image.style.width = `${Math.round(image.naturalWidth * scale)}px`;
  }
  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const own = button.firstElementChild;
      image.src = own.src;
      image.alt = own.alt;
      $("lightbox-title").textContent = own.alt;
      box.showModal();
      image.decode().then(() => zoom(0));
    });
  }
  for (const button of box.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
  box.addEventListener("keydown", (event) => {
    const factor = { "+": 1.25, "=": 1.25, "-": 0.8, 0: 0 }[event.key];
    if (factor !== undefined) zoom(factor);
  });
  box.addEventListener("click", (event) => event.target === box && box.close());
  $("lightbox-close").addEventListener("click", () => box.close());
})();
