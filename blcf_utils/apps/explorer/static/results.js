// Results as pictures: a click makes one the query, its second button asks why it was found.
const MARKS = { relevant: "✓ relevant", "not relevant": "✗ not relevant", junk: "○ junk", "": "" };

function render({ model, el }) {
  const list = document.createElement("ol");
  list.className = "blcf-results";
  el.appendChild(list);
  let urls = [];

  function choose(what, image) {
    model.set(what, { image, turn: (model.get(what).turn || 0) + 1 });
    model.save_changes();
  }
  function card(hit, jpeg) {
    const item = document.createElement("li");
    item.className = "blcf-" + (hit.verdict || "unknown").replace(" ", "-");
    item.dataset.image = hit.image;
    const pick = document.createElement("button");
    pick.className = "blcf-pick";
    pick.title = "make " + hit.name + " the query";
    const holder = document.createElement("span");
    const picture = document.createElement("img");
    const url = URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" }));
    urls.push(url);
    picture.src = url;
    picture.alt = "result " + hit.rank + ": " + hit.name;
    const box = document.createElement("i");
    const [x1, y1, x2, y2] = hit.box.map((v) => v * 100);
    box.style.cssText = `left:${x1}%;top:${y1}%;width:${x2 - x1}%;height:${y2 - y1}%`;
    holder.append(picture, box);
    pick.appendChild(holder);
    pick.onclick = () => choose("picked", hit.image);
    const label = document.createElement("small");
    label.textContent = `${hit.rank}. ${hit.score.toFixed(3)} ${MARKS[hit.verdict]}`;
    const why = document.createElement("button");
    why.className = "blcf-why";
    why.textContent = "why?";
    why.title = "why " + hit.name + " was found";
    why.onclick = () => choose("asked", hit.image);
    item.append(pick, label, why);
    return item;
  }
  function paint() {
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = [];
    const pictures = model.get("jpegs");
    list.replaceChildren(...model.get("hits").map((hit, i) => card(hit, pictures[i])));
  }
  function scroll() {
    // Later: the explanation's picture has its height only when it has come.
    const details = el.closest(".blcf-panel")?.querySelector(".blcf-details");
    setTimeout(() => details?.scrollIntoView({ block: "nearest", behavior: "smooth" }), 250);
  }
  model.on("change:turn", paint);
  model.on("change:explained", scroll);
  paint();
  return () => urls.forEach((url) => URL.revokeObjectURL(url));
}
export default { render };
