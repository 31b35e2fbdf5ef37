"use strict";
A3D.drawBars = async () => {};
