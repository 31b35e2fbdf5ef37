// What Khronos' validator says of GLB files: errors, warnings, infos and hints of each. It ends with 1 if there is one of
// the first two.
//
//     npm install --prefix /tmp/gltf gltf-validator
//     NODE_PATH=/tmp/gltf/node_modules node tests/validate_glb.js *.glb

const fs = require("fs");
const validator = require("gltf-validator");

(async () => {
  let bad = 0;
  for (const file of process.argv.slice(2)) {
    const { issues } = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)));
    const { numErrors, numWarnings, numInfos, numHints, messages } = issues;
    bad += numErrors + numWarnings;
    console.log(file, numErrors, numWarnings, numInfos, numHints, ...messages.map((message) => message.message));
  }
  process.exit(bad ? 1 : 0);
})();
