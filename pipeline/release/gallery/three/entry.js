// What the gallery needs of three.js. This makes assets/three.js, in an empty folder with this file as entry.js:
//   npm install three@0.187.0 esbuild@0.28.2
//   npx esbuild entry.js --bundle --minify --format=iife --global-name=THREE --legal-comments=none --outfile=three.js
// The first line of assets/three.js, which names the version and the licence, is written by hand.
export { AmbientLight, Box3, DirectionalLight, PerspectiveCamera, Scene, Vector3, WebGLRenderer } from "three";
export { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
export { GLTFLoader } from "three/examples/jsm/loaders/GLTFLoader.js";
