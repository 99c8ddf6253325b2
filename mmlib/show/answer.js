// What was read: pictures with the reader's attention, the formula, its tokens, other readings.
function render({ model, el }) {
    el.classList.add("mmlib-answer");
    el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes Enter and the arrows
    const make = (tag, more = {}, ...inner) => {
        const made = Object.assign(document.createElement(tag), more);
        made.append(...inner);
        return made;
    };
    const percent = p => `${Math.round(100 * p)} %`;
    const doubt = p => `rgba(230, 159, 0, ${Math.min(1, 1.6 * (1 - p))})`; // orange: doubtful
    let heat; // the canvas over the ink that shows where the reader looked
    let answered; // what to do with SymPy's code when it comes

    function attend(found, token) {
        const [rows, columns] = found.cells, context = heat.getContext("2d");
        context.clearRect(0, 0, columns, rows);
        if (token === null) return;
        const bytes = Uint8Array.from(atob(found.attention), sign => sign.charCodeAt(0));
        const image = context.createImageData(columns, rows);
        for (let cell = 0; cell < rows * columns; cell++)
            image.data.set([213, 94, 0, bytes[token * rows * columns + cell]], 4 * cell);
        context.putImageData(image, 0, 0);
    }
    function place(element, [left, top, width, height]) {
        Object.assign(element.style, { left: `${100 * left}%`, top: `${100 * top}%`,
                                       width: `${100 * width}%`, height: `${100 * height}%` });
        return element;
    }
    function pictures(found) {
        const row = make("div", { className: "mmlib-pictures" });
        if (found.sent) {
            const sent = make("div", { className: "mmlib-over" },
                              make("img", { src: found.sent, alt: "the picture as it was sent" }));
            found.boxes.forEach((box, k) => {
                const button = make("button", {
                    type: "button", title: `read formula ${k + 1}`,
                    className: k === found.row ? "mmlib-box mmlib-chosen" : "mmlib-box",
                    onclick: () => model.send({ row: k }) });
                button.dataset.key = `row${k}`;
                button.setAttribute("aria-label", `formula ${k + 1}`);
                sent.append(place(button, box));
            });
            row.append(make("figure", {}, sent, make("figcaption", { textContent: "as sent" })));
        }
        [heat.height, heat.width] = found.cells;
        const seen = make("div", { className: "mmlib-over" },
                          make("img", { src: found.seen, alt: "the ink as the reader sees it" }),
                          place(heat, found.place));
        row.append(make("figure", {}, seen, make("figcaption", { textContent: "as seen" })));
        return row;
    }
    function token(found, [text, sure], k) {
        const button = make("button", { type: "button", textContent: text, className: "mmlib-token",
                                        title: `${percent(sure)} sure; click to correct` });
        button.style.background = doubt(sure);
        button.dataset.key = `token${k}`;
        for (const [event, which] of [["mouseenter", k], ["focus", k],
                                      ["mouseleave", null], ["blur", null]])
            button.addEventListener(event, () => attend(found, which));
        button.addEventListener("click", () => {
            const input = make("input", { value: text, size: Math.max(4, text.length) });
            input.setAttribute("aria-label", `instead of ${text}`);
            let open = true;
            const close = keep => {
                if (!open) return;
                open = false;
                if (keep && input.value !== text) model.send({ token: k, text: input.value });
                else input.replaceWith(button);
            };
            input.addEventListener("keydown", event => {
                if (event.key === "Enter" || event.key === "Escape") close(event.key === "Enter");
            });
            input.addEventListener("blur", () => close(true));
            button.replaceWith(input);
            input.focus();
            input.select();
        });
        return button;
    }
    function other({ mathml, sure, chosen }, k) {
        const button = make("button", { type: "button", innerHTML: mathml, className: "mmlib-other",
                                        onclick: () => model.send({ reading: k }) });
        button.append(make("span", { textContent: percent(sure) }));
        button.setAttribute("aria-pressed", chosen);
        button.dataset.key = `reading${k}`;
        return button;
    }
    function others(found) {
        const buttons = found.others.map(other);
        const mine = found.others.some(one => one.chosen) ? "it" : "it instead of yours";
        const box = make("div", { className: "mmlib-others" },
                         make("p", { textContent: `Readings, the likeliest first; click to take ${mine}:` }),
                         ...buttons.slice(0, 3));
        if (buttons.length > 3)
            box.append(make("details", {},
                            make("summary", { textContent: `${buttons.length - 3} more` }),
                            ...buttons.slice(3)));
        return box;
    }
    function copies(found) {
        const said = make("span", { role: "status", className: "mmlib-copied" });
        const bar = make("div", { className: "mmlib-bar" });
        const byHand = make("textarea", { readOnly: true, hidden: true, className: "mmlib-by-hand" });
        byHand.setAttribute("aria-label", "text to copy by hand");
        const copy = async (name, text) => {
            let copied = true;
            try {
                await navigator.clipboard.writeText(text);
            } catch { // over http, or where the browser forbids it
                Object.assign(byHand, { hidden: false, value: text });
                byHand.select();
                copied = document.execCommand("copy");
            }
            byHand.hidden = copied;
            said.textContent = copied ? `${name} is copied`
                : `the browser forbids copying: press Ctrl+C for the ${name} below`;
        };
        const add = (name, act) => bar.append(
            make("button", { type: "button", textContent: `Copy ${name}`, onclick: act }));
        for (const [name, text] of Object.entries(found.copies))
            if (text) add(name, () => copy(name, text));
        add("SymPy", () => {
            said.textContent = "SymPy reads it…";
            model.send({ sympy: true });
        });
        answered = text => {
            if (text) copy("SymPy", text);
            else said.textContent = "SymPy has no way to say this";
        };
        bar.append(said);
        return make("div", {}, bar, byHand);
    }
    function draw() {
        const found = model.get("found"), focused = document.activeElement?.dataset?.key;
        el.replaceChildren(make("p", { role: "status", textContent: found.message }));
        if (!found.tokens) return;
        heat = make("canvas", { className: "mmlib-heat" });
        const formula = make("div", { className: "mmlib-formula", innerHTML: found.mathml });
        formula.append(make("span", { textContent: found.sure, className: "mmlib-sure" }));
        const tokens = make("div", { className: "mmlib-tokens" },
                            ...found.tokens.map((one, k) => token(found, one, k)));
        tokens.setAttribute("role", "group");
        tokens.setAttribute("aria-label", "LaTeX, token by token");
        el.append(pictures(found), formula, tokens, copies(found), others(found));
        if (focused) el.querySelector(`[data-key="${focused}"]`)?.focus();
    }
    model.on("change:found", draw);
    model.on("msg:custom", content => answered(content.sympy));
    draw();
}

export default { render };
