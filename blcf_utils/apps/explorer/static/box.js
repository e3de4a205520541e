// An image on which a box is drawn with mouse, pen or finger. Box: pixels of the stored image.
function render({ model, el }) {
  const canvas = document.createElement("canvas"), hint = document.createElement("small");
  canvas.className = "blcf-box";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `query image; ${model.get("hint")}`);
  hint.className = "blcf-hint";
  hint.textContent = model.get("hint");
  el.append(canvas, hint);
  const picture = new Image();
  let start = null, drawn = null, url = null;

  function scale() { return canvas.width / model.get("size")[0]; }
  function paint() {
    const pen = canvas.getContext("2d"), { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, width, height);
    const box = drawn || model.get("box");
    if (box.length !== 4) return;
    const [x1, y1, x2, y2] = box.map((v) => v * scale());
    const shade = new Path2D();  // everything but the box
    shade.rect(0, 0, width, height);
    shade.rect(x1, y1, x2 - x1, y2 - y1);
    pen.fillStyle = "rgba(0, 0, 0, 0.45)";
    pen.fill(shade, "evenodd");
    pen.lineWidth = 3;
    pen.strokeStyle = "#ffd400";
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  function forget() { if (url) URL.revokeObjectURL(url); }
  function load() {
    forget();
    url = URL.createObjectURL(new Blob([model.get("jpeg")], { type: "image/jpeg" }));
    picture.onload = () => {
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      paint();
    };
    picture.src = url;
  }
  function at(event) {
    const shown = canvas.getBoundingClientRect(), [width, height] = model.get("size");
    const within = (share, side) => Math.min(Math.max(share, 0), 1) * side;
    return [
      within((event.clientX - shown.left) / shown.width, width),
      within((event.clientY - shown.top) / shown.height, height),
    ];
  }
  function corners([x1, y1], [x2, y2]) {
    return [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
  }
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    start = at(event);
    event.preventDefault();
  };
  canvas.onpointermove = (event) => {
    if (!start) return;
    drawn = corners(start, at(event));
    paint();
  };
  canvas.onpointerup = (event) => {
    if (!start) return;
    const box = corners(start, at(event)), least = 4 / scale();
    start = drawn = null;
    // A click without a drag asks for the whole image.
    const wide = box[2] - box[0] >= least && box[3] - box[1] >= least;
    if (!wide) model.set("point", at(event).map(Math.round));
    model.set("box", wide ? box.map(Math.round) : []);
    model.save_changes();
    paint();
  };
  model.on("change:jpeg", load);
  model.on("change:box", paint);
  load();
  return forget;
}
export default { render };
