// SPDX-License-Identifier: Apache-2.0
// Draws each chart of the page from its specification.
for (const figure of document.querySelectorAll("figure.chart")) {
  const specification = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(figure.querySelector(".drawing"), specification, {
    renderer: "svg",
    actions: false,
    config: { background: null, view: { stroke: null }, font: "inherit", point: { filled: true } },
  }).catch((error) => {
    figure.querySelector(".drawing").textContent = "This chart could not be drawn: " + error;
    console.error(error);
  });
}
