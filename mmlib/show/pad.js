// Paper to write on, and the ways in for a picture: a file, the clipboard, a drop.
function render({ model, el }) {
    el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes Delete, Enter and the arrows
    const make = (tag, more) => Object.assign(document.createElement(tag), more);
    const canvas = make("canvas", {
        width: model.get("width"), height: model.get("height"), className: "mmlib-pad" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Paper: write a formula with mouse, pen or finger");
    const ctx = canvas.getContext("2d");
    let current = null;

    function draw() {
        ctx.clearRect(0, 0, canvas.width, canvas.height);
        ctx.lineWidth = 3;
        ctx.lineCap = ctx.lineJoin = "round";
        ctx.strokeStyle = ctx.fillStyle = "#222";
        for (const stroke of [...model.get("strokes"), ...(current ? [current] : [])]) {
            ctx.beginPath();
            if (stroke.length === 1) {
                ctx.arc(...stroke[0], 1.5, 0, 7);
                ctx.fill();
            } else {
                stroke.forEach(([x, y], k) => (k ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
                ctx.stroke();
            }
        }
    }
    function at(event) {
        const box = canvas.getBoundingClientRect();
        return [(event.clientX - box.left) * canvas.width / box.width,
                (event.clientY - box.top) * canvas.height / box.height];
    }
    function write(strokes) {
        model.set("strokes", strokes);
        model.save_changes();
        draw();
    }
    canvas.addEventListener("pointerdown", event => {
        if (event.button) return;
        canvas.setPointerCapture(event.pointerId);
        current = [at(event)];
        draw();
        event.preventDefault();
    });
    canvas.addEventListener("pointermove", event => {
        if (!current) return;
        const between = event.getCoalescedEvents?.() ?? [];
        current.push(...(between.length ? between : [event]).map(at));
        draw();
    });
    const up = () => {
        if (!current) return;
        const strokes = [...model.get("strokes"), current];
        current = null;
        write(strokes);
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    const fold = () => { canvas.hidden = model.get("folded"); };
    model.on("change:strokes", draw);
    model.on("change:folded", fold);

    async function send(file) {
        if (file) model.send({ picture: file.name || "pasted" }, undefined, [await file.arrayBuffer()]);
    }
    const file = make("input", { type: "file", accept: "image/*", hidden: true });
    file.addEventListener("change", () => { send(file.files[0]); file.value = ""; });
    const paste = make("input", { placeholder: "paste a picture here", className: "mmlib-paste" });
    paste.addEventListener("paste", event => {
        event.preventDefault();
        send([...event.clipboardData.files].find(one => one.type.startsWith("image/")));
    });
    paste.addEventListener("input", () => { paste.value = ""; });
    el.addEventListener("dragover", event => event.preventDefault());
    el.addEventListener("drop", event => {
        event.preventDefault();
        send(event.dataTransfer.files[0]);
    });
    const actions = { Undo: () => write(model.get("strokes").slice(0, -1)),
                      Clear: () => model.send({ clear: true }), "Picture…": () => file.click() };
    const bar = make("div", { className: "mmlib-bar" });
    for (const [name, action] of Object.entries(actions)) {
        const button = make("button", { type: "button", textContent: name });
        button.addEventListener("click", action);
        bar.append(button);
    }
    bar.append(paste, file);
    el.append(canvas, bar);
    draw();
    fold();
}

export default { render };
