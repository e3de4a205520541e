// A button that sends one photograph. What is too large is not sent: a connection would break on it.
function render({ model, el }) {
  const input = document.createElement("input");
  input.type = "file";
  input.accept = "image/*,.jfif,.mpo,.jp2,.heic,.heif,.avif,.jxl";
  input.hidden = true;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "blcf-upload";
  button.textContent = "own photograph …";
  button.onclick = () => input.click();
  input.onchange = async () => {
    const file = input.files[0];
    if (!file) return;
    const about = { name: file.name, size: file.size };
    const fits = file.size > 0 && file.size <= model.get("most_bytes");
    const content = fits ? await file.arrayBuffer() : null;
    input.value = ""; // the same file may be chosen again
    model.send(about, undefined, fits ? [content] : []);
  };
  el.append(button, input);
}
export default { render };
