"use strict";
A3D.drawRejects = async () => {};
