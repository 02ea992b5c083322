// The strip's buttons. `element` is the strip; `trigger` tells the page. The pictures change, the listener stays.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (!button) return;
  const does = button.dataset.does;
  for (const other of element.querySelectorAll(`button[data-does="${does}"]`)) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  trigger("select", { index: Number(button.dataset.index), value: does });
});
