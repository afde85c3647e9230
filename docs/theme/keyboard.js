// What mdBook's pages lack for those who use a keyboard or listen. `cargo xtask docs` mends their HTML, too.
{
  // It was a label, which no keyboard reaches.
  const toggle = document.getElementById("mdbook-sidebar-toggle");
  if (toggle instanceof HTMLButtonElement) {
    toggle.addEventListener("click", () => document.getElementById("mdbook-sidebar-toggle-anchor").click());
  }

  // What may be wider than its column is scrolled by the arrow keys.
  for (const wide of document.querySelectorAll("pre > code, .table-wrapper")) wide.tabIndex = 0;
}
