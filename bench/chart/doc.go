// Package chart draws small charts as SVG or PNG: lines over two axes, bars on
// a timeline, legends. Both formats come from the same drawing, through
// Canvas. Lengths are pixels of the SVG; the PNG has twice as many.
package chart
