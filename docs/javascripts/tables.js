// The theme puts wide tables into boxes that scroll sideways. One that does is made a region with a
// name, which the Tab key reaches and the arrow keys scroll.
const headings = [...document.querySelectorAll(".md-content :is(h1, h2, h3)")];

function reach() {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((box, i) => {
    const scrolls = box.scrollWidth > box.clientWidth;
    if (scrolls === box.hasAttribute("tabindex")) return;
    if (!scrolls) {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      return;
    }
    const before = (h) => h.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING;
    const title = headings.filter(before).pop();
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", `Table ${i + 1}: ${title ? title.firstChild.textContent : ""}`);
  });
}

new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", reach);
addEventListener("load", reach);
