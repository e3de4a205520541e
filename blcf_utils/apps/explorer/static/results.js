// Results as pictures: a click makes one the query, its second button asks why it was found.
const MARKS = { relevant: "✓ relevant", "not relevant": "✗ not relevant", junk: "○ junk", "": "" };

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function render({ model, el }) {
  const list = make("ol", { className: "blcf-results" });
  el.append(list);
  let urls = [];

  function card(hit, src) {
    const [x1, y1, x2, y2] = hit.box, [width, height] = hit.size, { image, name } = hit;
    const box = make("i", {});
    const share = (value, whole) => (100 * value) / whole + "%";
    box.style.left = share(x1, width);
    box.style.top = share(y1, height);
    box.style.width = share(x2 - x1, width);
    box.style.height = share(y2 - y1, height);
    const picture = make("img", { src, alt: `result ${hit.rank}: ${name}` });
    const pick = make("button", { className: "blcf-pick", title: `make ${name} the query` },
      make("span", {}, picture, box));
    pick.onclick = () => model.send({ pick: image });
    const why = make("button", { className: "blcf-why", title: `why ${name} was found` }, "why?");
    why.onclick = () => model.send({ why: image });
    const label = make("small", {}, `${hit.rank}. ${hit.score.toFixed(3)} ${MARKS[hit.verdict]}`);
    const item = make("li", {}, pick, label, why);
    item.className = "blcf-" + (hit.verdict || "unknown").replace(" ", "-");
    item.dataset.image = image;
    return item;
  }
  function forget() { urls.forEach((url) => URL.revokeObjectURL(url)); }
  function paint() {
    forget();
    urls = model.get("jpegs").map((jpeg) => URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })));
    list.replaceChildren(...model.get("hits").map((hit, i) => card(hit, urls[i])));
  }
  function scroll() {
    // The explanation's picture has its height only once it has loaded.
    const details = el.closest(".blcf-panel")?.querySelector(".blcf-details");
    setTimeout(() => details?.scrollIntoView({ block: "nearest", behavior: "smooth" }), 250);
  }
  model.on("change:hits", paint);
  model.on("msg:custom", scroll);
  paint();
  return forget;
}
export default { render };
