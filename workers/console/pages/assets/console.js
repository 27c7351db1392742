// What needs the browser: times in its own zone, its choice of light or dark, keys, and whether it is seen.
const FULL = { dateStyle: "medium", timeStyle: "medium" };

class LocalTime extends HTMLElement {
  static observedAttributes = ["at"];
  connectedCallback() {
    this.show();
  }
  attributeChangedCallback() {
    this.show();
  }
  show() {
    const at = new Date(this.getAttribute("at"));
    if (isNaN(at)) return;
    const sameDay = at.toDateString() === new Date().toDateString();
    const form = sameDay
      ? { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }
      : { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
    this.textContent = new Intl.DateTimeFormat(undefined, form).format(at);
    this.title = `${at.toISOString().replace("T", " ").replace(/\.\d+Z$/, "")} UTC · here ${at.toLocaleString(undefined, FULL)}`;
  }
}
customElements.define("local-time", LocalTime);

window.keywayTheme = (theme) => {
  document.cookie = `keyway-theme=${theme}; path=/; max-age=31536000; samesite=strict`;
};

document.addEventListener("visibilitychange", () => {
  if (window.did_handshake) emitEvent("keyway-seen", document.visibilityState === "visible");
});

// A page that the console no longer knows, since its browser slept or the console has started anew, is refused
// its websocket: it is loaded anew, once the console answers, and goes on.
const REFUSALS = 2;
function watch() {
  if (!window.socket) return setTimeout(watch, 50);
  let connected = window.socket.connected;
  let refused = 0;
  window.socket.on("connect", () => {
    connected = true;
    refused = 0;
  });
  window.socket.on("connect_error", async () => {
    const answer = await fetch("/healthz").catch(() => null);
    if (answer?.ok && connected && ++refused >= REFUSALS) location.reload();
  });
}
watch();

// `/` goes to the search field, as in most consoles.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector(".kw-search input");
  if (search) {
    event.preventDefault();
    search.focus();
  }
});
