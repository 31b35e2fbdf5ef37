// What the report needs of Observable Plot. This makes assets/plot.js, in an empty folder with this file as entry.js:
//   npm install @observablehq/plot@0.6.17 esbuild@0.28.2
//   npx esbuild entry.js --bundle --minify --format=iife --global-name=Plot --legal-comments=none --outfile=bundle.js
//   { echo '/*'; cat head.txt; echo '*/'; cat bundle.js; } > plot.js
// The comment in front of the bundle is written by hand: the versions, and the licences of all packages in it.
export { barX, plot, rectY, ruleX, ruleY, text } from "@observablehq/plot";
