// An image on which a box is drawn with mouse, pen or finger. Box: pixels of the stored image.
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  canvas.className = "blcf-box";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "query image; drag to draw a box, click to clear it");
  const hint = document.createElement("small");
  hint.className = "blcf-hint";
  hint.textContent = "Drag to draw a box; click to clear it.";
  el.append(canvas, hint);
  const picture = new Image();
  let start = null, drawn = null, url = null;

  function scale() { return canvas.width / model.get("size")[0]; }
  function paint() {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (picture.complete && picture.naturalWidth) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const box = drawn || model.get("box");
    if (box.length !== 4) return;
    const s = scale(), [x1, y1, x2, y2] = box.map((v) => v * s);
    pen.fillStyle = "rgba(0, 0, 0, 0.45)";
    pen.fillRect(0, 0, canvas.width, y1);
    pen.fillRect(0, y2, canvas.width, canvas.height - y2);
    pen.fillRect(0, y1, x1, y2 - y1);
    pen.fillRect(x2, y1, canvas.width - x2, y2 - y1);
    pen.lineWidth = 3;
    pen.strokeStyle = "#ffd400";
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  function load() {
    if (url) URL.revokeObjectURL(url);
    url = URL.createObjectURL(new Blob([model.get("jpeg")], { type: "image/jpeg" }));
    picture.onload = () => {
      canvas.width = picture.naturalWidth;
      canvas.height = picture.naturalHeight;
      paint();
    };
    picture.src = url;
  }
  function at(event) {
    const shown = canvas.getBoundingClientRect(), size = model.get("size");
    const clamp = (v, most) => Math.min(Math.max(v, 0), most);
    return [
      clamp(((event.clientX - shown.left) / shown.width) * size[0], size[0]),
      clamp(((event.clientY - shown.top) / shown.height) * size[1], size[1]),
    ];
  }
  function corners(a, b) {
    return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  }
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    start = at(event);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    drawn = corners(start, at(event));
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = corners(start, at(event)), least = 4 / scale();
    start = drawn = null;
    // A click without a drag asks for the whole image.
    const wide = box[2] - box[0] >= least && box[3] - box[1] >= least;
    model.set("box", wide ? box.map(Math.round) : []);
    model.save_changes();
    paint();
  });
  model.on("change:jpeg", load);
  model.on("change:box", paint);
  load();
  return () => url && URL.revokeObjectURL(url);
}
export default { render };
