"use strict";
(() => {
  const data = JSON.parse(document.getElementById("timeline-data").textContent);
  const scrubber = document.getElementById("scrubber");
  const rows = [...document.querySelectorAll(".row-now")];
  const shown = document.getElementById("moment");
  const moments = [...document.querySelectorAll("[data-at-ms]")];
  const groups = [...new Set(moments.map(one => one.dataset.sensor))];
  let pictured = "";

  // The index of the message nearest to a time, by bisection.
  const nearest = (times, at) => {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] < at) low = middle + 1; else high = middle;
    }
    return low > 0 && at - times[low - 1] <= times[low] - at ? low - 1 : low;
  };
  const show = () => {
    const at = Number(scrubber.value);
    document.getElementById("now").textContent = (at / 1000).toFixed(2) + " s";
    document.getElementById("lanes").style.setProperty("--at", at / data.length_ms);
    scrubber.setAttribute("aria-valuetext", (at / 1000).toFixed(2) + " s");
    data.streams.forEach((stream, row) => {
      if (!stream.t.length) return;
      const i = nearest(stream.t, at), text = stream.texts[stream.x[i]];
      const told = data.outcomes[stream.o[i]] + (text ? ": " + text : "");
      rows[row].textContent = (stream.t[i] / 1000).toFixed(2) + " s, " + told;
    });
    const far = one => Math.abs(Number(one.dataset.atMs) - at);
    const near = groups.map(sensor => moments.filter(one => one.dataset.sensor === sensor)
      .reduce((best, one) => far(one) < far(best) ? one : best));
    const key = near.map(one => moments.indexOf(one)).join();
    if (key === pictured) return;
    pictured = key;
    shown.replaceChildren(...near.map(one => {
      const figure = document.createElement("figure"), caption = document.createElement("figcaption");
      caption.textContent = one.dataset.sensor + ": " + one.querySelector("h4").textContent.trim();
      figure.append(...[...one.querySelectorAll(".picture")].map(picture => picture.cloneNode(true)), caption);
      return figure;
    }));
  };
  scrubber.addEventListener("input", show);
  document.getElementById("lanes").addEventListener("click", event => {
    const lane = event.currentTarget.getBoundingClientRect();
    scrubber.value = (event.clientX - lane.left) / lane.width * data.length_ms;
    scrubber.focus();
    show();
  });
  // The life of an object is collapsed until a link opens it.
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) { target.open = true; target.scrollIntoView(); }
  };
  document.addEventListener("click", event => {
    const seek = event.target.closest("[data-seek]");
    if (seek) { scrubber.value = seek.dataset.seek; show(); }
    if (event.target.closest("a[href^='#object-']")) setTimeout(unfold);
  });
  addEventListener("hashchange", unfold);
  unfold();
  show();
})();
