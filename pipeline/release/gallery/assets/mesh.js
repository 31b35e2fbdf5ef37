"use strict";
// The mesh of an object, turned with the mouse, a finger or the keys.

// three.js is read when the first mesh is opened.
A3D.three = () => {
  A3D.threeRead ??= new Promise((resolve, reject) => {
    const script = A3D.make("script", { src: "gallery/three.js" });
    script.onload = () => resolve(THREE);
    script.onerror = () => reject(new Error("gallery/three.js cannot be read"));
    document.head.append(script);
  });
  return A3D.threeRead;
};

// Show a GLB in a canvas; the function that ends it.
A3D.showMesh = async (canvas, glb) => {
  const three = await A3D.three();
  const renderer = new three.WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
  renderer.setPixelRatio(window.devicePixelRatio);
  const scene = new three.Scene();
  const body = (await new three.GLTFLoader().parseAsync(glb, "")).scene;
  scene.add(body);
  const box = new three.Box3().setFromObject(body);
  const centre = box.getCenter(new three.Vector3());
  const size = box.getSize(new three.Vector3()).length() || 1;
  body.position.sub(centre);
  const camera = new three.PerspectiveCamera(35, 1, size / 100, size * 100);
  camera.position.set(0.5, 0.4, 1).setLength(1.7 * size);
  const lamp = new three.DirectionalLight(0xffffff, 1.5);
  camera.add(lamp);
  scene.add(camera, new three.AmbientLight(0xffffff, 1.7));
  const controls = new three.OrbitControls(camera, canvas);
  controls.enableDamping = false;
  const draw = () => {
    const { clientWidth: width, clientHeight: height } = canvas;
    renderer.setSize(width, height, false);
    camera.aspect = width / height || 1;
    camera.updateProjectionMatrix();
    renderer.render(scene, camera);
  };
  controls.addEventListener("change", draw);
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);
  canvas.addEventListener("keydown", (event) => A3D.turnByKey(event, camera, controls, three));
  controls.update();
  draw();
  return () => {
    watcher.disconnect();
    controls.dispose();
    renderer.dispose();
  };
};

// Arrow keys turn the camera around the mesh, + and - change its distance.
A3D.turnByKey = (event, camera, controls, three) => {
  const turns = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] };
  const scale = { "+": 1 / 1.15, "-": 1.15 }[event.key];
  if (turns[event.key]) {
    const { x, y, z } = camera.position;
    const distance = Math.hypot(x, y, z);
    const round = Math.atan2(x, z) + turns[event.key][0];
    const up = Math.max(-1.5, Math.min(1.5, Math.asin(y / distance) + turns[event.key][1]));
    const flat = distance * Math.cos(up);
    camera.position.set(flat * Math.sin(round), distance * Math.sin(up), flat * Math.cos(round));
  } else if (scale) camera.position.multiplyScalar(scale);
  else return;
  event.preventDefault();
  camera.lookAt(new three.Vector3());
  controls.update();
  controls.dispatchEvent({ type: "change" });
};
