// Walks through the stages of one decode: what was proposed, which tokens were kept, what was committed.
(() => {
  const walks = DATA.stages;
  if (walks.length) {
    $("walk").hidden = false;
    start();
  }

  function start() {
    const [slider, strip, play] = [$("stage"), $("strip"), $("play")];
    const tiles = [0, 1, 2].map((row) => $(`tile-${row}`));
    let walk = walks[0];
    let timer = 0;
    const size = () => `${100 * walk.stages.length}% 300%`;
    const at = (row, stage) => `${walk.stages.length > 1 ? (100 * stage) / (walk.stages.length - 1) : 0}% ${50 * row}%`;
    const percent = (value) => (value === null || value === undefined ? "–" : `${shown(100 * value, 1)} %`);
    const who = {
      target: "the target, alone", target_draft: "the target, guided by the draft", target_unguided: "the target, without guidance",
      target_exit: "the target's first blocks", draft: "the draft, unverified", verified: "verified",
      skipped: "nobody, the stage is left out",
    };

    function show() {
      const stage = Number(slider.value);
      const step = walk.stages[stage];
      tiles.forEach((tile, row) => {
        tile.style.backgroundPosition = at(row, stage);
        tile.setAttribute("aria-label", `${["proposal", "map of tokens", "committed image"][row]} at stage ${stage}`);
      });
      tiles[0].classList.toggle("none", step.source.startsWith("target") || step.source === "skipped");
      [...strip.children].forEach((node, i) => node.setAttribute("aria-pressed", String(i === stage)));
      slider.setAttribute("aria-valuetext", `stage ${stage} of ${walk.stages.length}`);
      facts($("stage-facts"), [
        ["stage", `${stage} of 0 … ${walk.stages.length - 1}`], ["committed by", who[step.source] ?? step.source],
        ["verdict", step.passed === null || step.passed === undefined ? "none" : step.passed ? "passed" : "failed"],
        ["tokens accepted", percent(step.accepted_share)], ["equal to the target's sample", percent(step.match_rate)],
        ["1 − TV(p, q)", percent(step.one_minus_tv)], ["equal to the baseline", percent(step.token_agreement)],
        ...(walk.trace ? [["γ by round", walk.trace.replaceAll(",", " ")]] : []),
      ]);
    }
    function open(next) {
      walk = next;
      const sprite = `url("${picture(`${walk.cell}/${walk.label}_${walk.seed}_stages`)}")`;
      slider.max = String(walk.stages.length - 1);
      const failed = walk.stages.findIndex((step) => step.passed === false);
      slider.value = failed < 0 ? slider.max : String(failed);
      for (const tile of tiles) {
        tile.style.backgroundImage = sprite;
        tile.style.backgroundSize = size();
      }
      strip.replaceChildren(...walk.stages.map((step, stage) => {
        const node = document.createElement("button");
        node.type = "button";
        node.setAttribute("aria-label", `Stage ${stage}${step.passed === false ? ", failed" : ""}`);
        node.append(...[1, 2].map((row) => {
          const tile = document.createElement("span");
          tile.className = "tile";
          tile.style.backgroundImage = sprite;
          tile.style.backgroundSize = size();
          tile.style.backgroundPosition = at(row, stage);
          return tile;
        }), String(stage));
        node.addEventListener("click", () => {
          slider.value = String(stage);
          show();
        });
        return node;
      }));
      show();
    }
    function follow(id) {
      const own = walks.filter((one) => one.cell === id);
      if (!own.length) return;
      $("stage-cell").value = id;
      $("stage-unit").replaceChildren(...own.map((one) => new Option(`${labelled(one.label)}, seed ${one.seed}`, walks.indexOf(one))));
      open(own[0]);
    }
    function halt() {
      clearInterval(timer);
      timer = 0;
      play.setAttribute("aria-pressed", "false");
      play.textContent = "▶ play";
    }
    FOLLOWERS.push(follow);
    $("stage-cell").addEventListener("change", (event) => choose(event.target.value));
    $("stage-unit").addEventListener("change", (event) => open(walks[Number(event.target.value)]));
    slider.addEventListener("input", () => {
      halt();
      show();
    });
    play.addEventListener("click", () => {
      if (timer) return halt();
      if (slider.value === slider.max) slider.value = "0";
      show();
      play.setAttribute("aria-pressed", "true");
      play.textContent = "❚❚ pause";
      timer = setInterval(() => {
        slider.stepUp();
        show();
        if (slider.value === slider.max) halt();
      }, 700);
    });
  }
})();

// To begin with: a cell whose decode shows failed stages and that differs from the baseline, else one of several makers that differs, else one that differs, else any.
{
  const verifies = new Set(DATA.stages.filter((walk) => walk.stages.some((step) => step.passed === false)).map((walk) => walk.cell));
  const differs = DATA.cells.filter((cell) => cell.units[DATA.headline]?.some((value) => value > 0));
  const mixed = new Set(DATA.stages.filter((walk) => new Set(walk.stages.map((step) => step.source)).size > 1).map((walk) => walk.cell));
  const first = differs.find((cell) => verifies.has(cell.id)) ?? differs.find((cell) => mixed.has(cell.id)) ?? differs[0] ?? DATA.cells.find((cell) => cell.id !== cell.baseline) ?? DATA.cells[0];
  if (first) choose(first.id);
}
