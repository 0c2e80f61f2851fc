// Who is known: enrolment, changes, erasure; unknown visitors and naming them.

import { call, erase, get, patch, post, upload } from "./api.js";
import { ask as dialogOf } from "./dialog.js";
import { byId, h, repeated } from "./dom.js";
import { ago, count, day } from "./words.js";

const FORMATS = "image/jpeg,image/png,image/bmp,image/webp,image/tiff";
const REFRESH_MS = 5000;
export const awake = repeated(refresh, REFRESH_MS);

export function start() {
  byId("add-person").addEventListener("click", () => addPerson());
  byId("recognise").addEventListener("click", whoIsThis);
}

async function refresh() {
  await Promise.all([
    fill("identities", person, "Nobody is enrolled yet. Add a person, or name an unknown visitor below."),
    fill("clusters", visitor, "No unknown visitor at the moment."),
  ]);
}

async function fill(path, card, empty) {
  const box = byId(path);
  try {
    const records = await get(path);
    if (box.dataset.seen === JSON.stringify(records)) return;
    box.dataset.seen = JSON.stringify(records);
    box.replaceChildren(...(records.length ? records.map(card) : [h("p.empty", empty)]));
  } catch (error) {
    delete box.dataset.seen;
    box.replaceChildren(h("p.empty", `${error.message}.`));
  }
}

const button = (text, action, kind = "quiet") => h(`button.${kind}`, { type: "button", onclick: action }, text);

function avatar(identity) {
  const initials = h("span.avatar", { "aria-hidden": "true" }, identity.name.trim()[0]?.toUpperCase() ?? "?");
  if (identity.pictures === 0) return initials;
  const image = h("img.avatar", { alt: "", src: `/api/1/identities/${encodeURIComponent(identity.id)}/images/0`, onerror: () => image.replaceWith(initials) });
  return image;
}

function person(identity) {
  const notes = [count(identity.pictures, "picture"), identity.expires_at ? `until ${day(identity.expires_at)}` : "does not expire"];
  return h("article.card.person", avatar(identity),
    h("div.about",
      h("h3", identity.name),
      h("p.meta", notes.join(" · ")),
      h("p.meta", identity.consent ? `Consent: ${identity.consent}` : "No consent note"),
      identity.needs_pictures && h("p.warning", "Cannot be recognised: add pictures for the model in use."),
      identity.origin && h("p.meta", `Shared by ${identity.origin}, where changes are made. Erased here, it is not taken again.`),
      h("div.actions",
        !identity.origin && [button("Add pictures", () => addPictures(identity)), button("Edit", () => edit(identity))],
        button("Erase", () => eraseIdentity(identity), "danger"))));
}

function visitor(cluster) {
  return h("article.card.person", h("span.avatar.unknown", { "aria-hidden": "true" }, "?"),
    h("div.about",
      h("h3", cluster.id),
      h("p.meta", `${count(cluster.sightings, "visit")} · last seen ${ago(cluster.seen_at)}`),
      h("div.actions",
        button("Name", () => nameVisitor(cluster), "primary"),
        button("Forget", () => confirmed(`Forget ${cluster.id}?`, "If this person comes again, they get a new pseudonym.", "Forget", () => erase(`clusters/${encodeURIComponent(cluster.id)}`)), "danger"))));
}

const ask = (title, fields, label, submit, kind = "primary") => dialogOf(title, fields, label, submit, { kind, after: refresh });

const confirmed = (title, text, label, action) => ask(title, [h("p", text)], label, async () => { await action(); }, "danger");

let fields = 0;

function field(label, input, hint) {
  fields += 1;
  input.setAttribute("aria-describedby", `hint-${fields}`);
  return h("div.field", h("label", label, input), h("small", { id: `hint-${fields}` }, hint));
}

const nameField = (value = "") => h("label", "Name", h("input", { name: "name", required: true, maxlength: 100, value, autocomplete: "off" }));

const localDay = (date) => new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 10);

const recordFields = ({ consent = "", expires_at: expires = null } = {}) => [
  field("Consent", h("textarea", { name: "consent", rows: 2, maxlength: 2000, placeholder: "For example: signed form of 3 May 2026, kept at reception" }, consent),
    "Say how the person agreed. Without consent do not enrol anybody."),
  field("Erase by itself on", h("input", { name: "expires", type: "date", min: localDay(new Date(Date.now() + 864e5)), value: expires && localDay(new Date(expires * 1000)) }),
    "Empty: kept until you erase it."),
];

const record = (form) => ({
  name: form.elements.name.value,
  consent: form.elements.consent.value,
  expires_at: form.elements.expires.value ? new Date(`${form.elements.expires.value}T00:00`).getTime() / 1000 : null,
});

// Pictures to be enrolled, with what became of each.
class Pictures {
  constructor() {
    this.items = [];
    this.list = h("ul.pictures", { "aria-live": "polite" });
    this.input = h("input", { type: "file", accept: FORMATS, multiple: true, onchange: () => {
      [...this.input.files].forEach((file) => this.add(file));
      this.input.value = "";
    } });
    this.field = [field("Pictures", this.input,
      "Several pictures in different light help. Each must show this person alone, sharp and facing the camera. They stay on this device, encrypted; where its settings share identities, the other devices of its site get them, sealed."), this.list];
  }

  add(file) {
    const url = URL.createObjectURL(file);
    const verdict = h("span.verdict", "ready");
    const image = h("img", { alt: file.name ?? "Picture from the live view", src: url, onload: () => URL.revokeObjectURL(url), onerror: () => image.remove() });
    const item = { file, verdict, done: false };
    const line = h("li", image, h("span.file", file.name ?? "from the live view"), verdict,
      button("Remove", () => { this.items = this.items.filter((other) => other !== item); line.remove(); }));
    this.items.push(item);
    this.list.append(line);
  }

  // True when every picture was taken.
  async send(identity) {
    let all = true;
    for (const item of this.items.filter((other) => !other.done)) {
      item.verdict.textContent = "checking …";
      item.verdict.className = "verdict";
      try {
        const { warnings } = await upload(`identities/${encodeURIComponent(identity)}/images`, item.file);
        item.done = true;
        item.verdict.textContent = ["taken", ...warnings].join("; ");
        item.verdict.classList.add("good");
      } catch (error) {
        all = false;
        const reasons = error.problem?.reasons ?? [error.message];
        item.verdict.textContent = `not taken: ${reasons.join(", ")}`;
        item.verdict.classList.add("bad");
      }
    }
    return all;
  }
}

export async function addPerson({ stream } = {}) {
  const pictures = new Pictures();
  let identity = null;
  const dialog = ask("Add a person", [nameField(), pictures.field, recordFields()], "Save", async (form) => {
    if (pictures.items.length === 0) throw new Error("Choose at least one picture");
    identity ??= (await post("identities", record(form))).id;
    const all = await pictures.send(identity);
    if (!pictures.items.some((item) => item.done)) {
      await erase(`identities/${encodeURIComponent(identity)}`);
      identity = null;
      throw new Error("No picture could be used, so nobody was saved; choose other pictures");
    }
    return !all;
  });
  if (stream) await takeSnapshot(stream, pictures, dialog);
}

async function takeSnapshot(stream, pictures, dialog) {
  try {
    const blob = await call("GET", `/api/1/streams/${encodeURIComponent(stream)}/snapshot.jpg`);
    pictures.add(new File([blob], `snapshot of ${stream}.jpg`, { type: "image/jpeg" }));
  } catch (error) {
    const text = dialog.querySelector(".error");
    text.textContent = `${error.message}.`;
    text.hidden = false;
  }
}

function addPictures(identity) {
  const pictures = new Pictures();
  ask(`Add pictures of ${identity.name}`, [pictures.field], "Save", async () => {
    if (pictures.items.length === 0) throw new Error("Choose at least one picture");
    return !(await pictures.send(identity.id));
  });
}

// Sends only what was changed: a day on the form is coarser than the moment on record.
function edit(identity) {
  const dialog = ask(`Edit ${identity.name}`, [nameField(identity.name), recordFields(identity)], "Save", async (form) => {
    const changes = Object.fromEntries(Object.entries(record(form)).filter(([key, value]) => value !== before[key]));
    if (Object.keys(changes).length) await patch(`identities/${encodeURIComponent(identity.id)}`, changes);
  });
  const before = record(dialog.querySelector("form"));
}

const eraseIdentity = (identity) => confirmed(`Erase ${identity.name}?`,
  "Name, pictures, templates and this person's events on this device are erased for good. This cannot be undone.", "Erase",
  () => erase(`identities/${encodeURIComponent(identity.id)}`));

const nameVisitor = (cluster) => ask(`Who is ${cluster.id}?`, [nameField(), recordFields()], "Save",
  async (form) => { await post(`clusters/${encodeURIComponent(cluster.id)}/name`, record(form)); });

function whoIsThis() {
  const input = h("input", { type: "file", accept: FORMATS, required: true });
  const answer = h("ul.answers", { "aria-live": "polite" });
  ask("Who is this?", [field("Picture", input, "It is looked at on this device and not kept."), answer], "Look", async () => {
    const { result } = await upload("recognize", input.files[0]);
    answer.replaceChildren(...(result.length ? result.map(face) : [h("li", "No face was found.")]));
    return true;
  });
}

function face(found) {
  const place = `face at ${Math.round(found.box.x_min)}, ${Math.round(found.box.y_min)}`;
  return h("li", h("strong", found.name ?? found.decision), ` · ${place}`, found.distance !== null && found.distance !== undefined && ` · distance ${found.distance.toFixed(2)}`);
}
