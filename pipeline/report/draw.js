// SPDX-License-Identifier: Apache-2.0
// Draws every chart of the page from the specification beside it.
for (const place of document.querySelectorAll("figure.chart")) {
  const specification = JSON.parse(place.querySelector("script").textContent);
  vegaEmbed(place.querySelector(".drawing"), specification, {
    renderer: "svg",
    actions: false,
    config: { background: null, view: { stroke: null }, font: "inherit", point: { filled: true } },
  }).catch((error) => {
    place.querySelector(".drawing").textContent = "This chart could not be drawn: " + error;
    console.error(error);
  });
}
