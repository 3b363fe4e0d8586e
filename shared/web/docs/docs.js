"use strict";

SwaggerUIBundle({
  domNode: document.getElementById("docs"),
  url: document.getElementById("docs").dataset.openapi,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  layout: "BaseLayout",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
});
