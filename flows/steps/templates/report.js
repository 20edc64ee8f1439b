(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const cards = [...document.querySelectorAll(".card")];
  const count = document.getElementById("shown");
  const none = document.getElementById("none");
  const wanted = (change, filter) =>
    !filter || (filter === "changed" ? change !== "" : change === filter || change === "mixed");
  const apply = () => {
    const { lang, kind, backend, change, text } = form.elements;
    const needle = text.value.normalize("NFC").trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      let pairs = 0;
      for (const pair of card.querySelectorAll(".pair")) {
        pair.hidden =
          (backend.value && pair.dataset.backend !== backend.value) || !wanted(pair.dataset.change, change.value);
        pairs += pair.hidden ? 0 : 1;
      }
      card.hidden =
        !pairs ||
        (lang.value && card.dataset.lang !== lang.value) ||
        (kind.value && card.dataset.kind !== kind.value) ||
        (needle && !card.querySelector("h3").textContent.toLowerCase().includes(needle));
      shown += card.hidden ? 0 : 1;
    }
    count.textContent = `${shown} / ${cards.length}`;
    none.hidden = shown > 0;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
