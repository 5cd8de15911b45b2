// SPDX-FileCopyrightText: store-deploy contributors
// SPDX-License-Identifier: Apache-2.0
// A deployment as a picture: a bar for each state, as long as it took.

import { svg } from "./dom.js";
import { lasting, word } from "./words.js";

const WIDTH = 720;
const LABEL = 150;
const LINE = 22;

const KINDS = { deployed: "good", failed: "bad", held: "rests" };

/** Return the picture of one deployment's changes; its text is in the history below it. */
export function timeline(store, changes) {
  // What was noted in the midst of a state is none.
  const rows = changes.filter((row, at) => at === 0 || row.state !== changes[at - 1].state);
  const began = Date.parse(rows[0].at);
  const spans = rows.map((row, at) => {
    const from = (Date.parse(row.at) - began) / 1000;
    const next = rows[at + 1];
    const to = next ? (Date.parse(next.at) - began) / 1000 : from + (row.took_s ?? 0);
    return { state: row.state, from, to: Math.max(from, to) };
  });
  const whole = Math.max(1, ...spans.map((span) => span.to));
  const scale = (WIDTH - LABEL - 70) / whole;
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${LINE * spans.length + 4}`, role: "img", class: "timeline",
    "aria-label": word("timeline_of", { generation: rows[0].generation, store }),
  });
  spans.forEach((span, at) => {
    const y = LINE * at + 2;
    const x = LABEL + span.from * scale;
    const width = Math.max(2, (span.to - span.from) * scale);
    picture.append(
      svg("text", { x: LABEL - 8, y: y + 15, "text-anchor": "end" }, span.state),
      svg("rect", { x, y: y + 3, width, height: LINE - 7, rx: 2, class: KINDS[span.state] ?? "moves" }),
      svg("text", { x: x + width + 6, y: y + 15 }, span.to > span.from ? lasting(span.to - span.from) : ""),
    );
  });
  return picture;
}
